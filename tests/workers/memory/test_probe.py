"""The account of one configuration against tensors that are really there."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import BertForSequenceClassification

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.workers.injection import inject
from autopeft.workers.memory import MemoryModel
from autopeft.workers.memory.accounting import SavedStorages
from autopeft.workers.shapes import shape_from_config
from tests.workers.memory.conftest import BATCH_SIZE, TOKENS, make_config

ALL_SITES = ("q", "k", "v", "attention_output", "ffn_in", "ffn_out")
LAYERS = (0, 1, 2, 3)


def lora(layers: tuple[int, ...] = LAYERS, **changes: Any) -> Module:
    settings = {
        "rank": 4,
        "alpha_ratio": 2.0,
        "sites": ALL_SITES,
        "dora": False,
        "rslora": False,
    }
    return Module.of("lora", layers, **{**settings, **changes})


def configuration(*modules: Module) -> Configuration:
    return Configuration(modules=modules, learning_rate=1e-3)


CASES = {
    "head": (),
    "lora": (lora(),),
    "lora-on-two-sites": (lora((1, 3), sites=("v", "ffn_out")),),
    "dora": (lora((2,), dora=True),),
    "ia3": (Module.of("ia3", (0, 2), sites=("k", "v", "ffn_out")),),
    "beft": (Module.of("beft", LAYERS, sites=("q", "v")),),
    "prefix": (Module.of("prefix", LAYERS, prefix_length=4),),
    "mixture": (lora((1,)), Module.of("ia3", (0, 1), sites=("v",))),
}


@pytest.mark.parametrize("attention_dropout", [0.1, 0.0], ids=["unfused", "fused"])
@pytest.mark.parametrize("name", CASES)
def test_activations_are_what_a_padded_batch_on_the_cpu_saves(
    name: str, attention_dropout: float
) -> None:
    config = make_config(attention_probs_dropout_prob=attention_dropout)
    shape = shape_from_config(copy.deepcopy(config), "small-bert")
    base = BertForSequenceClassification(copy.deepcopy(config)).requires_grad_(False)
    model = inject(base, configuration(*CASES[name]), shape, 0).train()
    input_ids = torch.zeros((BATCH_SIZE, TOKENS), dtype=torch.long)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1:, TOKENS // 2 :] = 0
    saved = SavedStorages(model)
    with saved:
        logits = model(input_ids=input_ids, attention_mask=attention_mask).logits
        loss = F.cross_entropy(logits, torch.zeros(BATCH_SIZE, dtype=torch.long))
    real = saved.num_bytes()
    del logits, loss

    memory = MemoryModel(config, shape, batch_size=BATCH_SIZE, tokens=TOKENS, task="classification")
    probed = memory.probe(configuration(*CASES[name])).components["activations"]
    # The labels, which are there before the step, and a few indices of the prefix.
    assert probed == pytest.approx(real, rel=1e-3 if name == "prefix" else 0, abs=BATCH_SIZE * 8)


def test_parameters_are_counted_by_role(memory: MemoryModel, shape: ModelShape) -> None:
    estimate = memory.probe(configuration(lora(sites=("q",), layers=(1,))))
    parts = estimate.components
    num_adapter = 4 * (32 + 32)
    num_trained = num_adapter + shape.num_head_parameters
    assert parts["adapter"] == 4 * num_trained
    assert 0 <= parts["gradients"] <= 4 * num_trained
    assert parts["optimizer_state"] == 2 * 4 * num_trained
    # PEFT keeps the original head beside the one that trains; the rest is two
    # buffers of positions.
    frozen = 4 * (shape.num_base_parameters + shape.num_head_parameters)
    assert parts["weights"] == frozen + 2 * 8 * 40
    assert estimate.total_bytes == parts["total"]
    assert parts["total"] == sum(n for name, n in parts.items() if name != "total")


def test_head_alone_saves_almost_nothing_but_runs_a_forward_pass(memory: MemoryModel) -> None:
    parts = memory.probe(configuration()).components
    assert parts["activations"] < BATCH_SIZE * 32 * 4 * 3
    assert parts["transients"] > BATCH_SIZE * TOKENS * 64 * 4


def test_only_layers_above_the_lowest_adapted_one_save(memory: MemoryModel) -> None:
    saved = [
        memory.probe(configuration(lora((layer,)))).components["activations"] for layer in LAYERS
    ]
    steps = [below - above for below, above in pairwise(saved)]
    assert steps[0] > 0
    assert len(set(steps)) == 1


def test_regression_has_its_own_loss(memory_of: Callable[..., MemoryModel]) -> None:
    memory = memory_of(make_config(num_labels=1, problem_type="regression"), task="regression")
    assert memory.probe(configuration(lora())).total_bytes > 0


def test_half_precision_halves_the_frozen_weights_and_no_adapter(
    memory_of: Callable[..., MemoryModel], memory: MemoryModel
) -> None:
    half = memory_of(make_config(), dtype=torch.bfloat16)
    chosen = configuration(lora((2,)))
    whole_parts, half_parts = memory.probe(chosen).components, half.probe(chosen).components
    assert half_parts["weights"] == pytest.approx(whole_parts["weights"] / 2, rel=0.02)
    assert half_parts["optimizer_state"] == whole_parts["optimizer_state"]
    assert half.predict([chosen])[0] == pytest.approx(half.probe(chosen).total_bytes, rel=0.01)


def test_tokens_may_reach_the_last_position_under_a_prefix(
    memory_of: Callable[..., MemoryModel],
) -> None:
    memory = memory_of(make_config(), tokens=40)
    assert memory.predict([configuration(*CASES["prefix"])])[0] > 0


def test_config_stays_as_it_was(config: Any, memory: MemoryModel) -> None:
    before = config.to_dict()
    memory.probe(configuration(lora()))
    assert config.to_dict() == before
    assert config._attn_implementation in (None, "sdpa")


@pytest.mark.parametrize("phase", ["forward", "backward", "optimizer"])
def test_the_peak_can_be_in_any_phase(memory_of: Callable[..., MemoryModel], phase: str) -> None:
    changes: dict[str, Any] = {
        "forward": {},
        "backward": {},
        "optimizer": {"batch_size": 1, "tokens": 2},
    }[phase]
    chosen = {
        "forward": configuration(lora((2,))),
        "backward": configuration(lora()),
        "optimizer": configuration(Module.of("last-layers", (0, 1, 2, 3), num_layers=4)),
    }[phase]
    estimate = memory_of(make_config(), **changes).probe(chosen)
    assert estimate.phase == phase
    if phase == "optimizer":
        assert estimate.components["gradients"] == estimate.components["adapter"]
        assert estimate.components["activations"] == 0


def test_a_batch_in_parts_keeps_the_gradients_of_the_first(
    memory_of: Callable[..., MemoryModel], memory: MemoryModel
) -> None:
    whole = memory.probe(configuration(lora()))
    parts = memory_of(make_config(), accumulation=4).probe(configuration(lora()))
    assert parts.components["gradients"] == parts.components["adapter"]
    assert 0 < parts.total_bytes - whole.total_bytes <= parts.components["adapter"]


@pytest.mark.parametrize(
    ("optimizer", "numbers"),
    [("adamw", 2.0), ("adamw-8bit", 0.6), ("sgd", 0.0), ("adafactor", 0.3)],
)
def test_optimisers_differ_in_their_state(
    memory_of: Callable[..., MemoryModel], optimizer: str, numbers: float
) -> None:
    # Wide enough for states in 8 bits.
    config = make_config(hidden_size=128, intermediate_size=256)
    memory = memory_of(config, optimizer=optimizer)
    parts = memory.probe(
        configuration(Module.of("last-layers", (0, 1, 2, 3), num_layers=2))
    ).components
    assert parts["optimizer_state"] / parts["adapter"] == pytest.approx(numbers, abs=0.35)
    assert (parts["optimizer_state"] == 0) == (numbers == 0)


def test_a_frozen_first_matrix_has_neither_gradient_nor_state(
    memory_of: Callable[..., MemoryModel], memory: MemoryModel
) -> None:
    chosen = configuration(lora())
    frozen = memory_of(make_config(), optimizer="lora-fa").probe(chosen).components
    both = memory.probe(chosen).components
    assert frozen["adapter"] < both["adapter"]
    assert frozen["weights"] + frozen["adapter"] == both["weights"] + both["adapter"]
    assert frozen["optimizer_state"] == 2 * frozen["adapter"]


def test_the_loss_of_the_model_itself_may_count(memory_of: Callable[..., MemoryModel]) -> None:
    own, ours = (
        memory_of(make_config(), loss_of=loss).probe(configuration(lora()))
        for loss in ("model", "task")
    )
    # The outputs are alive in the backward pass there.
    assert 0 <= own.total_bytes - ours.total_bytes < 4 * BATCH_SIZE * 3 * 8
