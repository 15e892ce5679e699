"""Predictions against probes for a model of every kind, and under every way to train."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import pytest

from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.search_spaces.method import get_method
from autopeft.workers.memory import MemoryModel
from autopeft.workers.quantization import stored_bytes
from autopeft.workers.shapes import shape_from_config
from tests.workers.families import TASK_OF, config_of

TOKENS = 24
#: What predictions may be off by, for a model with four layers a stack.
TOLERANCE = 0.001
#: By family: how its config calls the number of layers.
COUNTS = {
    "bert": ("num_hidden_layers",),
    "gpt2": ("n_layer",),
    "llama": ("num_hidden_layers",),
    "mixtral": ("num_hidden_layers",),
    "t5": ("num_layers", "num_decoder_layers"),
    "vit": ("num_hidden_layers",),
    "ast": ("num_hidden_layers",),
    "mamba": ("num_hidden_layers",),
}


@cache
def memory_of(family: str, **changes: Any) -> MemoryModel:
    config, task = config_of(family), TASK_OF[family]
    for name in COUNTS[family]:
        setattr(config, name, 4)
    shape = shape_from_config(config, f"tiny-{family}", task=task)
    shape = dataclasses.replace(shape, **changes)
    return MemoryModel(config, shape, batch_size=8, tokens=TOKENS, task=task)


def everywhere(memory: MemoryModel, method: str, layers: tuple[int, ...] = ()) -> Configuration:
    shape = memory._shape
    settings = {d.name: d.default for d in get_method(method).dimensions(shape)}
    module = Module.of(method, layers or tuple(range(shape.num_layers)), **settings)
    return Configuration(modules=(module,), learning_rate=1e-3)


def assert_near(memory: MemoryModel, chosen: Configuration, tolerance: float = TOLERANCE) -> None:
    probed = memory.probe(chosen)
    assert not probed.is_approximate
    assert not memory._predicted(chosen.modules).is_approximate
    assert memory.predict([chosen])[0] == pytest.approx(probed.total_bytes, rel=tolerance)


@pytest.mark.parametrize("method", ["lora", "serial-adapter"])
@pytest.mark.parametrize("family", COUNTS)
def test_a_family_is_predicted(family: str, method: str) -> None:
    memory = memory_of(family)
    # Every layer of T5's decoder is said to keep the encoder's output, which is there once.
    assert_near(memory, everywhere(memory, method), TOLERANCE)


@pytest.mark.parametrize("layers", [(0, 1, 2, 3), (3,)], ids=str)
@pytest.mark.parametrize(
    "sites", [("q", "v"), ("experts_out",), ("q", "experts_gate_in", "experts_out")], ids="+".join
)
def test_stacked_experts_are_predicted(sites: tuple[str, ...], layers: tuple[int, ...]) -> None:
    module = Module.of(
        "lora", layers, rank=8, alpha_ratio=2.0, dora=False, rslora=False, sites=sites
    )
    # What stacked experts make of the worst moment is not told apart, one from the other.
    tolerance = 0.012 if "experts_out" in sites else TOLERANCE
    chosen = Configuration(modules=(module,), learning_rate=1e-3)
    assert_near(memory_of("mixtral"), chosen, tolerance)


@pytest.mark.parametrize("layers", [(0, 1, 2, 3), (4, 5, 6, 7), (3,), (4,), (2, 6)], ids=str)
def test_encoder_and_decoder_are_told_apart(layers: tuple[int, ...]) -> None:
    memory = memory_of("t5")
    assert_near(memory, everywhere(memory, "lora", layers))


def test_a_prefix_of_a_decoder_leaves_the_encoder_alone() -> None:
    memory = memory_of("t5")
    assert_near(memory, everywhere(memory, "prefix"))


@pytest.mark.parametrize("method", ["layer-prefix", "iapt"])
def test_prefixes_on_single_layers_are_measured(method: str) -> None:
    memory = memory_of("bert")
    assert_near(memory, everywhere(memory, method))


def test_checkpointing_holds_one_layer_at_a_time() -> None:
    plain = memory_of("llama")
    saving = memory_of("llama", uses_gradient_checkpointing=True)
    chosen = everywhere(plain, "lora")
    assert_near(saving, chosen)
    held = saving.probe(chosen).components["activations"]
    assert held < plain.probe(chosen).components["activations"] / 2


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_quantised_weights_take_their_few_bits(bits: str) -> None:
    """How many follows from shapes; see ``tests/workers/test_quantization.py`` for live models."""
    plain, small = memory_of("llama"), memory_of("llama", quantization=bits)
    chosen = everywhere(plain, "lora")
    assert_near(small, chosen)
    weights = [each.probe(chosen).components["weights"] for each in (plain, small)]
    saved = sum(
        4 * site.in_features * site.out_features
        - stored_bytes(bits, site.out_features, site.in_features)
        for site in plain._shape.sites
    )
    assert weights[0] - weights[1] == saved * plain._shape.num_layers
    assert (
        small.probe(chosen).components["activations"]
        == (plain.probe(chosen).components["activations"])
    )


def test_a_smaller_share_of_the_batch_saves_in_proportion() -> None:
    """Accumulation: the memory model is given the examples that go through together."""
    whole = memory_of("bert")
    half = MemoryModel(
        whole._step.config, whole._shape, batch_size=4, tokens=TOKENS, task="classification"
    )
    chosen = everywhere(whole, "lora")
    parts = [each.probe(chosen).components for each in (whole, half)]
    assert parts[0]["activations"] == pytest.approx(2 * parts[1]["activations"], rel=0.01)
    assert parts[0]["optimizer_state"] == parts[1]["optimizer_state"]
