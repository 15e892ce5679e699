"""Predicted against accounted steps: what is trained on, optimisers, kinds of attention."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest

from autopeft.workers.settings import OptimizerName, TrainingSettings
from tests.workers.memory.real_steps import TOKENS, Case, bert, llama, padded_batch, t5

MODELS = {"causal-lm": llama, "seq2seq-lm": t5}
ALL_MODELS = {"classification": bert, **MODELS}


@pytest.mark.parametrize("num_trained", [TOKENS, 6], ids=["whole", "answers"])
@pytest.mark.parametrize("method", ["lora", "prompt-tuning"])
@pytest.mark.parametrize("task", MODELS)
def test_logits_are_of_the_tokens_that_are_trained_on(
    task: str, method: str, num_trained: int
) -> None:
    case = Case(
        config=MODELS[task](),
        task=task,
        method=method,
        batch=padded_batch(task, num_trained=num_trained),
    )
    assert case.probed().total_bytes == pytest.approx(case.measured(), rel=0.01)


def test_fewer_trained_tokens_need_less() -> None:
    few, all_of_them = (
        Case(
            config=llama(),
            task="causal-lm",
            method="lora",
            batch=padded_batch("causal-lm", num_trained=number),
        ).probed()
        for number in (6, TOKENS)
    )
    assert few.total_bytes < 0.85 * all_of_them.total_bytes


def optimised(name: OptimizerName, method: str, *, rows: int, **settings: Any) -> Case:
    batch = padded_batch("classification")
    return Case(
        config=bert(),
        task="classification",
        method=method,
        settings=settings,
        batch={key: array[-rows:, :TOKENS] for key, array in batch.items() if array.ndim == 2}
        | {"labels": batch["labels"][-rows:]},
        training=TrainingSettings(optimizer=name, weight_decay=0.01),
    )


@pytest.mark.parametrize(
    ("method", "rows", "settings"),
    [("lora", 8, {"rank": 64}), ("last-layers", 1, {"num_layers": 2})],
    ids=["activations-decide", "optimiser-decides"],
)
@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_optimisers_need_what_is_predicted(
    name: OptimizerName, method: str, rows: int, settings: dict[str, Any]
) -> None:
    case = optimised(name, method, rows=rows, **settings)
    assert case.probed().total_bytes == pytest.approx(case.measured(), rel=0.01)


@pytest.mark.parametrize("name", ["adamw-8bit", "adafactor", "lora-fa"])
def test_optimisers_are_known_to_quick_predictions(name: OptimizerName) -> None:
    case = optimised(name, "lora", rows=8, rank=64)
    assert case.estimated().total_bytes == pytest.approx(case.probed().total_bytes, rel=0.01)


def test_optimisers_rank_as_their_states_do() -> None:
    names: tuple[OptimizerName, ...] = ("sgd", "adafactor", "adamw-8bit", "adamw")
    needs = [optimised(name, "last-layers", rows=1, num_layers=2).measured() for name in names]
    assert needs == sorted(needs)
    assert len(set(needs)) == len(needs)


def attending(attention: str, task: str, **training: Any) -> Case:
    config = ALL_MODELS[task]()
    config._attn_implementation = attention
    return Case(
        config=config,
        task=task,
        method="lora",
        batch=padded_batch(task),
        training=TrainingSettings(**training),
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("task", ALL_MODELS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_kinds_of_attention_need_what_is_predicted(
    attention: str, task: str, checkpointing: bool, precision: str
) -> None:
    case = attending(attention, task, gradient_checkpointing=checkpointing, precision=precision)
    assert case.probed().total_bytes == pytest.approx(case.measured(), rel=0.01)


def test_eager_attention_needs_more_than_fused() -> None:
    eager, fused = (attending(name, "causal-lm") for name in ("eager", "sdpa"))
    assert eager.measured() > fused.measured()
    assert eager.probed().total_bytes > fused.probed().total_bytes


def test_attention_without_a_mask_needs_least() -> None:
    case = attending("sdpa", "causal-lm")
    flash, fused = (
        case.probed(attention=attention, device="cuda").total_bytes
        for attention in ("flash_attention_2", "auto")
    )
    assert flash < fused


@pytest.mark.parametrize("method", ["shira", "supertuning"])
def test_methods_that_pass_by_hooks_are_accounted_for_in_silence(method: str) -> None:
    batch = padded_batch("classification")
    case = Case(config=bert(), task="classification", method=method, batch=batch)
    # A warning would be an error here, and what cannot be accounted for is only estimated.
    assert not case.estimated().is_approximate


def in_4_bits(task: str, method: str, **training: Any) -> Case:
    return Case(
        config=ALL_MODELS[task](),
        task=task,
        method=method,
        batch=padded_batch(task, num_trained=6),
        training=TrainingSettings(saved_activations="4bit", **training),
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["lora", "serial-adapter", "norms"])
@pytest.mark.parametrize("task", ["classification", "causal-lm"])
def test_activations_in_4_bits_are_counted_as_they_are_stored(
    task: str, method: str, precision: str
) -> None:
    case = in_4_bits(task, method, precision=precision)
    full = replace(case, training=TrainingSettings(precision=precision))
    probed = case.probed()
    assert probed.total_bytes == pytest.approx(case.measured(), rel=0.01)
    assert probed.total_bytes < 0.95 * full.probed().total_bytes
    assert case.estimated().total_bytes == pytest.approx(probed.total_bytes, rel=0.01)


@pytest.mark.parametrize("method", ["lora", "norms"])
@pytest.mark.parametrize("task", ["classification", "causal-lm"])
def test_checkpointing_drops_what_is_packed(task: str, method: str) -> None:
    case = in_4_bits(task, method, gradient_checkpointing=True)
    full = replace(case, training=TrainingSettings(gradient_checkpointing=True))
    probed = case.probed()
    assert probed.total_bytes == pytest.approx(case.measured(), rel=0.01)
    assert probed.total_bytes < full.probed().total_bytes
    assert case.estimated().total_bytes == pytest.approx(probed.total_bytes, rel=0.01)
