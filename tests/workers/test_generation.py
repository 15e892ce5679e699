"""Answers: greedy decoding with left padding equals what one pass a token says."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch

from autopeft.errors import DataError, InvalidJobError
from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.workers import generation
from autopeft.workers.adapter_tensors import trainable_parameters
from autopeft.workers.answer_metrics import AnswerMetric
from autopeft.workers.dataset import Rows
from autopeft.workers.generation import (
    GenerationPlan,
    generate,
    plan_generation,
    score_answers,
    stop_tokens,
)
from autopeft.workers.injection import inject
from autopeft.workers.settings import GenerationSettings
from autopeft.workers.shapes import shape_from_config
from autopeft.workers.tasks.base import EncodingSettings
from autopeft.workers.tasks.causal_lm import CausalLanguageModel
from autopeft.workers.tasks.classification import Classification
from autopeft.workers.tasks.seq2seq_lm import SequenceToSequence
from tests.workers import families, tiny_lm

LORA = Module.of(
    "lora",
    (0, 1),
    rank=2,
    alpha_ratio=2.0,
    sites=("attention_output", "ffn_out"),
    dora=False,
    rslora=False,
)
PREFIX = Module.of("prefix", (0, 1), prefix_length=3)
METHODS = {"lora": (LORA,), "prefix": (PREFIX,), "both": (LORA, PREFIX)}
PROMPTS = ((5, 6, 7, 8, 9), (11,), (12, 13, 14))


def make_plan(**changes: Any) -> GenerationPlan:
    settings = GenerationSettings(max_new_tokens=6, batch_size=8)
    plan = GenerationPlan(
        prompts=PROMPTS,
        references=("a", "b", "c"),
        rows=(0, 1, 2),
        metric=AnswerMetric(name="exact_match"),
        settings=settings,
        stop_ids=(2,),
        pad_token_id=0,
    )
    return replace(plan, **changes)


def trained(family: str, task: str, modules: tuple[Module, ...]) -> Any:
    """Return a model with a configuration whose weights are as if trained for long."""
    base = families.build(family, task).eval().requires_grad_(False)
    shape = shape_from_config(families.config_of(family, task), f"tiny-{family}", task)
    model = inject(base, Configuration(modules=modules, learning_rate=1e-3), shape)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter.normal_(std=0.5, generator=generator)
    return model.eval()


def one_by_one(model: Any, prompt: tuple[int, ...], plan: GenerationPlan) -> list[int]:
    """Decode greedily without padding, batch or cache."""
    answer: list[int] = []
    with torch.no_grad():
        for _ in range(plan.settings.max_new_tokens):
            if model.config.is_encoder_decoder:
                start = model.config.decoder_start_token_id
                outputs = model(
                    input_ids=torch.tensor([prompt]),
                    decoder_input_ids=torch.tensor([[start, *answer]]),
                    use_cache=False,
                )
            else:
                outputs = model(input_ids=torch.tensor([[*prompt, *answer]]), use_cache=False)
            token = int(outputs.logits[0, -1].argmax())
            if token in plan.stop_ids:
                break
            answer.append(token)
    return answer


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_answers_are_those_of_one_pass_a_token(
    family: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, plan = trained(family, "causal-lm", METHODS[method]), make_plan()

    def without_cache(self: Any) -> Any:
        raise AssertionError("the cache gets along with these methods")

    monkeypatch.setattr(generation._Causal, "_without_cache", without_cache)

    found = generate(model, plan, nullcontext())

    assert found == [one_by_one(model, prompt, plan) for prompt in PROMPTS]
    assert len({tuple(answer) for answer in found}) > 1


@pytest.mark.parametrize("method", ["lora"])
def test_answers_of_an_encoder_decoder(method: str) -> None:
    model, plan = trained("t5", "seq2seq-lm", METHODS[method]), make_plan(stop_ids=(1,))
    found = generate(model, plan, nullcontext())
    assert found == [one_by_one(model, prompt, plan) for prompt in PROMPTS]


def test_batches_do_not_change_answers() -> None:
    model = trained("llama", "causal-lm", (LORA,))
    settings = GenerationSettings(max_new_tokens=6, batch_size=1)
    together = generate(model, make_plan(), nullcontext())
    assert generate(model, make_plan(settings=settings), nullcontext()) == together


def test_what_the_cache_gets_wrong_is_generated_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, plan = trained("llama", "causal-lm", (LORA,)), make_plan()
    right = generate(model, plan, nullcontext())
    monkeypatch.setattr(generation._Causal, "_with_cache", lambda self: [[3] * 6] * 3)
    assert generate(model, plan, nullcontext()) == right

    def fail(self: Any) -> Any:
        raise ValueError("no cache here")

    monkeypatch.setattr(generation._Causal, "_with_cache", fail)
    assert generate(model, plan, nullcontext()) == right


def test_generating_leaves_the_model_as_it_was() -> None:
    model = trained("llama", "causal-lm", (LORA,))
    model.train()
    before = {name: p.clone() for name, p in model.named_parameters()}
    generate(model, make_plan(), nullcontext())
    assert model.training
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_an_answer_ends_where_it_stops() -> None:
    model = trained("llama", "causal-lm", (LORA,))
    whole = generate(model, make_plan(stop_ids=()), nullcontext())
    stop = whole[0][2]
    cut = generate(model, make_plan(stop_ids=(stop,)), nullcontext())
    assert cut[0] == whole[0][: whole[0].index(stop)]


def test_answers_are_scored_and_written() -> None:
    tokenizer = tiny_lm.make_tokenizer()
    model = tiny_lm.make_model(len(tokenizer))
    rows = tiny_lm.make_rows(5, 0)
    settings = GenerationSettings(max_new_tokens=3, rows=4)
    plan = plan_generation(
        AnswerMetric(name="exact_match"),
        settings,
        CausalLanguageModel(),
        rows,
        tokenizer,
        EncodingSettings(max_tokens=32),
        seed=0,
        max_positions=128,
    )
    value, text = score_answers(model, plan, tokenizer, nullcontext())
    lines = [json.loads(line) for line in text.splitlines()]

    assert len(lines) == 4
    assert [line["row"] for line in lines] == list(plan.rows)
    assert [line["reference"] for line in lines] == [
        rows.columns["completion"][row] for row in plan.rows
    ]
    assert [line["prompt"] for line in lines] == [rows.columns["prompt"][row] for row in plan.rows]
    matches = [line["generated"] == line["reference"].strip() for line in lines]
    assert value == sum(matches) / 4


def planned(task: Any, rows: Rows, **changes: Any) -> GenerationPlan:
    arguments: dict[str, Any] = {"seed": 0, "max_positions": 128, **changes}
    return plan_generation(
        AnswerMetric(name="exact_match"),
        GenerationSettings(max_new_tokens=8),
        task,
        rows,
        tiny_lm.make_tokenizer(),
        EncodingSettings(max_tokens=32),
        **arguments,
    )


def test_rows_are_drawn_with_the_seed() -> None:
    rows = tiny_lm.make_rows(400, 0)
    one, same, other = (planned(CausalLanguageModel(), rows, seed=s) for s in (0, 0, 1))
    assert len(one.prompts) == 200
    assert one == same
    assert one.rows != other.rows


def test_a_task_without_answers_is_refused() -> None:
    with pytest.raises(InvalidJobError, match="classification generates no answers"):
        planned(Classification(), tiny_lm.make_rows(4, 0))


def test_plain_texts_are_refused() -> None:
    with pytest.raises(DataError, match="plain texts have no answers"):
        planned(CausalLanguageModel(), Rows.of_texts(["a", "b"], [None, None]))


def test_answers_must_fit_the_positions() -> None:
    with pytest.raises(InvalidJobError, match=r"max_new_tokens is 8.*takes at most 9"):
        planned(CausalLanguageModel(), tiny_lm.make_rows(4, 0), max_positions=9)
    rows = tiny_lm.make_rows(4, 0)
    assert planned(SequenceToSequence(), rows, max_positions=9).references


def test_ends_of_turns_stop_an_answer() -> None:
    tokenizer = tiny_lm.make_tokenizer()
    names = tokenizer.convert_ids_to_tokens(stop_tokens(tokenizer))
    assert names == ["</s>", "<|im_end|>"]
