"""Bases in 4 and 8 bits, on the CPU: what is stored, shared and left alone, and every method."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.search_spaces.deploy import check_deployable
from autopeft.search_spaces.method import METHODS, get_method
from autopeft.workers.adapter_tensors import adapter_tensors, fill_adapter, trainable_parameters
from autopeft.workers.injection import inject
from autopeft.workers.memory import MemoryModel
from autopeft.workers.noise import hide_harmless_messages
from autopeft.workers.training import autocast
from tests.methods import cases
from tests.workers import quantized

pytest.importorskip("bitsandbytes", reason=quantized.REASON)

BITS = ("4bit", "8bit")
#: A decoder without biases, an encoder with a head and biases, transposed linear layers.
FAMILIES = ("llama", "bert", "gpt2")
NOTHING = Configuration(modules=(), learning_rate=cases.LEARNING_RATE)
#: Largest difference of outputs at the start, relative to their spread: methods that turn the
#: inputs compute them in bfloat16, and 8 bits round to the nearest of 255 values.
START = {"4bit": 0.05, "8bit": 0.1}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the tiny models are written."""
    return tmp_path_factory.mktemp("quantized")


def lora(shape: Any, **changes: Any) -> Configuration:
    method = get_method("lora")
    settings = {each.name: each.default for each in method.dimensions(shape)} | changes
    module = Module.of("lora", tuple(range(shape.num_layers)), **settings)
    return Configuration(modules=(module,), learning_rate=cases.LEARNING_RATE)


def take_step(model: Any, family: str) -> None:
    optimizer = torch.optim.AdamW(trainable_parameters(model).values(), lr=cases.LEARNING_RATE)
    model.train()
    with autocast(model, "auto"):
        logits = cases.raw_outputs(model, family)
    target = torch.arange(logits.shape[-1], dtype=torch.float32) % 3
    torch.autograd.backward((logits.float() - target).square().mean())
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("family", [*FAMILIES, "t5"])
def test_bytes_of_the_base_follow_from_shapes(folder: Path, family: str, bits: str) -> None:
    base, config, shape = quantized.loaded(folder, family, bits)
    memory = MemoryModel(
        config,
        shape,
        batch_size=2,
        tokens=8,
        task=shape.task,
        dtype=torch.bfloat16,
        weight_dtype=torch.float32,
    )
    # PEFT keeps the original head beside the copy that trains.
    weights = memory.probe(NOTHING).components["weights"]

    assert weights == pytest.approx(quantized.stored_bytes(base), rel=0.005)


@pytest.mark.parametrize("bits", BITS)
def test_trials_share_the_base_and_leave_it_alone(folder: Path, bits: str) -> None:
    base, _, shape = quantized.loaded(folder, "bert", bits)
    size, reference = quantized.stored_bytes(base), quantized.outputs(base, "bert")
    before = {key: tensor.clone() for key, tensor in base.state_dict().items()}
    model = inject(base, lora(shape), shape, 1)
    added = sum(p.nbytes for p in trainable_parameters(model).values())
    both = torch.nn.ModuleList([base, model])
    take_step(model, "bert")
    quantized.outputs(model, "bert")

    assert quantized.stored_bytes(both) <= size + 2 * added
    assert all(torch.equal(before[key], tensor) for key, tensor in base.state_dict().items())
    assert torch.equal(quantized.outputs(base, "bert"), reference)


@pytest.mark.parametrize("bits", BITS)
def test_biases_are_not_rounded_for_good(folder: Path, bits: str) -> None:
    base, _, _ = quantized.loaded(folder, "bert", bits)
    layer = base.bert.encoder.layer[0].intermediate.dense
    layer(torch.zeros(1, layer.in_features, dtype=torch.bfloat16))

    assert layer.bias.dtype == torch.float32


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_head_and_output_layer_stay_as_they_are(folder: Path, family: str) -> None:
    base, _, shape = quantized.loaded(folder, family, "4bit")
    kept = shape.head_paths or ("lm_head",)
    assert {base.get_submodule(path).weight.dtype for path in kept} == {torch.float32}


def test_nothing_is_merged_into_few_bits(folder: Path) -> None:
    _, _, shape = quantized.loaded(folder, "llama", "4bit")
    (module,) = lora(shape).modules
    with pytest.raises(ValueError, match="stored in 4bit, to which a merged weight"):
        check_deployable(module, shape, "merged")
    assert get_method("lora").inference_extra_flops(shape, module) > 0
    check_deployable(module, dataclasses.replace(shape, quantization=None), "merged")


def test_only_harmless_messages_are_hidden(caplog: pytest.LogCaptureFixture) -> None:
    hide_harmless_messages()
    logger = logging.getLogger("bitsandbytes.autograd._functions")
    with caplog.at_level(logging.WARNING, logger.name):
        logger.warning("MatMul8bitLt: inputs will be cast from %s to float16", torch.float32)
        logger.warning("something else")
    assert caplog.messages == ["something else"]


def fitting() -> Iterator[tuple[str, str, str]]:
    """Yield each method that is offered on a quantised model, with family and bits."""
    for family in FAMILIES:
        for bits in BITS:
            shape = dataclasses.replace(cases.shape_of(family), quantization=bits)
            for method in METHODS.names():
                if get_method(method).unavailable(shape) is None:
                    yield method, family, bits


@pytest.mark.parametrize(("method", "family", "bits"), tuple(fitting()))
def test_an_offered_method_trains_and_is_loaded_again(
    folder: Path, method: str, family: str, bits: str
) -> None:
    """The count is asserted at every injection."""
    base, _, shape = quantized.loaded(folder, family, bits)
    module = cases.modules_of(method, shape)["default"]
    chosen = Configuration(modules=(module,), learning_rate=cases.LEARNING_RATE)
    model = inject(base, chosen, shape, 1)
    start = quantized.outputs(model, family)
    reference = quantized.outputs(inject(base, NOTHING, shape, 1), family)
    take_step(model, family)
    after = quantized.outputs(model, family)
    stored = {
        group: {key: tensor.clone() for key, tensor in tensors.items()}
        for group, tensors in adapter_tensors(model, shape.head_paths).items()
    }
    fresh = inject(base, chosen, shape, 2)
    fill_adapter(fresh, shape.head_paths, stored)

    if get_method(method).starts_as_base:
        assert cases.distance(start, reference) <= START[bits]
    assert not torch.equal(after, start)
    assert {p.dtype for p in trainable_parameters(model).values()} == {torch.float32}
    assert torch.equal(quantized.outputs(fresh, family), after)


@pytest.mark.parametrize("bits", BITS)
def test_dora_reads_weights_in_few_bits(folder: Path, bits: str) -> None:
    base, _, shape = quantized.loaded(folder, "bert", bits)
    model = inject(base, lora(shape, dora=True), shape, 1)
    reference = quantized.outputs(inject(base, NOTHING, shape, 1), "bert")
    assert cases.distance(quantized.outputs(model, "bert"), reference) <= START[bits]
