from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import PeftModel

from autopeft.records import ModelShape
from autopeft.search_spaces.methods.lora import Lora
from autopeft.workers.adapter_tensors import trainable_parameters
from autopeft.workers.heads import initialise_head
from autopeft.workers.injection import inject, is_saved_as_parts
from autopeft.workers.models import load_config
from autopeft.workers.shapes import meta_model, shape_from_config
from autopeft.workers.worker import WorkerPlan
from tests.workers import tiny


@pytest.mark.parametrize("name", tiny.CONFIGURATIONS)
def test_exactly_adapter_and_head_train(name: str, tiny_base: Any, tiny_shape: ModelShape) -> None:
    chosen = tiny.configuration(name)
    trainable = trainable_parameters(inject(tiny_base, chosen, tiny_shape, 1))
    head = {key: p for key, p in trainable.items() if "classifier" in key}
    marks = ("lora_", "ia3_", "beft_", "prompt_encoder")

    assert sum(p.numel() for p in head.values()) == tiny_shape.num_head_parameters
    assert all(any(mark in key for mark in marks) for key in trainable.keys() - head.keys())
    assert sum(p.numel() for p in trainable.values()) == tiny.num_parameters(tiny_shape, chosen)


@pytest.mark.parametrize("name", tiny.CONFIGURATIONS)
def test_training_leaves_the_base_as_it_was(
    name: str, tiny_base: Any, tiny_shape: ModelShape
) -> None:
    before = {key: tensor.clone() for key, tensor in tiny_base.state_dict().items()}
    flags = [parameter.requires_grad for parameter in tiny_base.parameters()]
    names = [key for key, _ in tiny_base.named_modules()]
    model = inject(tiny_base, tiny.configuration(name), tiny_shape, 1)
    optimizer = torch.optim.SGD(trainable_parameters(model).values(), lr=1.0)
    model(input_ids=tiny.INPUT_IDS, attention_mask=tiny.MASK).logits.square().sum().backward()
    optimizer.step()

    after = tiny_base.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert [parameter.requires_grad for parameter in tiny_base.parameters()] == flags
    assert all(parameter.grad is None for parameter in tiny_base.parameters())
    assert [key for key, _ in tiny_base.named_modules()] == names


def test_frozen_weights_are_shared_not_copied(tiny_base: Any, tiny_shape: ModelShape) -> None:
    model = inject(tiny_base, tiny.configuration("mixture"), tiny_shape, 1)
    shared = {parameter.data_ptr() for parameter in tiny_base.bert.parameters()}

    assert shared <= {parameter.data_ptr() for parameter in model.parameters()}


class Quantized(torch.nn.Parameter):
    """Stands for a weight in few bits: of another type, with scales, and made by quantising."""

    scales: torch.Tensor

    def __new__(cls, data: torch.Tensor, bits: int) -> Quantized:
        found: Quantized = torch.Tensor._make_subclass(cls, data.to(torch.int8), False)
        found.scales = torch.full((1,), float(bits))
        return found


def test_quantized_weights_keep_type_scales_and_storage(
    tiny_base: Any, tiny_shape: ModelShape
) -> None:
    base = copy.deepcopy(tiny_base)
    layer = base.bert.encoder.layer[0].intermediate.dense
    layer.weight = Quantized(layer.weight, 4)
    model = inject(base, tiny.configuration("lora"), tiny_shape, 1)
    weight = model.get_submodule(
        "base_model.model.bert.encoder.layer.0.intermediate.dense"
    ).base_layer.weight

    assert type(weight) is Quantized
    assert weight is not layer.weight
    assert weight.data_ptr() == layer.weight.data_ptr()
    assert weight.scales is layer.weight.scales
    assert not weight.requires_grad
    del weight.scales  # as bitsandbytes takes them away in the first forward pass
    assert layer.weight.scales.item() == 4.0


@pytest.mark.parametrize("name", ["head", "lora", "mixture-with-prefix"])
def test_over_half_precision_what_trains_is_float32(
    name: str, tiny_base: Any, tiny_shape: ModelShape
) -> None:
    base = copy.deepcopy(tiny_base).to(torch.bfloat16)
    model = inject(base, tiny.configuration(name), tiny_shape, 1)
    trained = trainable_parameters(model)

    assert {parameter.dtype for parameter in trained.values()} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} >= {torch.bfloat16}
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(tiny.outputs(model).float()).all()


@pytest.mark.parametrize("name", tiny.CONFIGURATIONS)
def test_start_depends_on_the_seed_alone(name: str, tiny_base: Any, tiny_shape: ModelShape) -> None:
    chosen = tiny.configuration(name)
    one = inject(tiny_base, chosen, tiny_shape, 1)
    torch.rand(3)
    same, other = (inject(tiny_base, chosen, tiny_shape, seed) for seed in (1, 2))

    def start(model: Any) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in trainable_parameters(model).values()])

    assert torch.equal(start(one), start(same))
    assert not torch.equal(start(one), start(other))


def test_head_starts_alike_under_every_configuration(
    tiny_base: Any, tiny_shape: ModelShape
) -> None:
    heads = [
        torch.cat([p.detach().flatten() for key, p in trainable.items() if "classifier" in key])
        for trainable in (
            trainable_parameters(inject(tiny_base, tiny.configuration(name), tiny_shape, 7))
            for name in tiny.CONFIGURATIONS
        )
    ]

    assert all(torch.equal(head, heads[0]) for head in heads)
    assert heads[0].std() > 0


def test_adapters_that_start_at_nothing_leave_the_outputs(
    tiny_base: Any, tiny_shape: ModelShape
) -> None:
    reference = tiny.outputs(inject(tiny_base, tiny.configuration("head"), tiny_shape, 1))
    model = inject(tiny_base, tiny.configuration("mixture"), tiny_shape, 1)

    torch.testing.assert_close(tiny.outputs(model), reference)


def test_injection_keeps_the_global_random_state(tiny_base: Any, tiny_shape: ModelShape) -> None:
    state = torch.random.get_rng_state()
    inject(tiny_base, tiny.configuration("mixture-with-prefix"), tiny_shape, 1)

    assert torch.equal(torch.random.get_rng_state(), state)


def test_head_deviation_is_the_initializer_range(tiny_base: Any, tiny_shape: ModelShape) -> None:
    model = inject(tiny_base, tiny.configuration("head"), tiny_shape, 1)
    initialise_head(model.get_base_model(), tiny_shape, 5)
    head = model.get_base_model().classifier
    weights = torch.cat(
        [p.flatten() for key, p in head.named_parameters() if key.endswith("weight")]
    )

    # 0.2 in the tiny config; 96 draws put the estimate within a quarter of it.
    assert 0.15 < weights.std().item() < 0.25
    assert all(not p.any() for key, p in head.named_parameters() if key.endswith("bias"))


def test_a_wrong_count_of_the_space_is_noticed(
    tiny_base: Any, tiny_shape: ModelShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lora, "num_parameters", lambda *_: 1)
    with pytest.raises(AssertionError, match="the space counted 52"):
        inject(tiny_base, tiny.configuration("lora"), tiny_shape, 1)


def test_injection_works_on_the_meta_device(tiny_plan: WorkerPlan) -> None:
    config = load_config(tiny_plan.source, 3)
    shape = shape_from_config(config, "tiny")
    model = inject(meta_model(config), tiny.configuration("mixture"), shape)

    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


@pytest.mark.parametrize("name", tiny.CONFIGURATIONS)
def test_only_mixtures_are_saved_as_parts(
    name: str, tiny_base: Any, tiny_shape: ModelShape
) -> None:
    chosen = tiny.configuration(name)
    model = inject(tiny_base, chosen, tiny_shape, 1)

    assert is_saved_as_parts(chosen) == name.startswith("mixture")
    assert isinstance(model, PeftModel) or name == "mixture"


def test_nothing_is_drawn_where_there_are_no_numbers(
    tiny_base: Any, tiny_shape: ModelShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEFT draws the start of every adapter, also of those it drops for the meta device."""
    drawn: list[tuple[int, ...]] = []
    draw = torch.nn.init.kaiming_uniform_

    def counting(tensor: torch.Tensor, *arguments: Any, **more: Any) -> torch.Tensor:
        drawn.append(tuple(tensor.shape))
        return draw(tensor, *arguments, **more)

    monkeypatch.setattr(torch.nn.init, "kaiming_uniform_", counting)
    real = inject(tiny_base, tiny.configuration("lora"), tiny_shape, 1)
    assert (2, 16) in drawn
    drawn.clear()
    empty = inject(copy.deepcopy(tiny_base).to("meta"), tiny.configuration("lora"), tiny_shape, 1)

    assert not drawn
    assert torch.nn.init.kaiming_uniform_ is counting
    assert {name: p.shape for name, p in trainable_parameters(empty).items()} == {
        name: p.shape for name, p in trainable_parameters(real).items()
    }
