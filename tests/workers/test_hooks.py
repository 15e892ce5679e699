"""Hooks of method module files: rates of their own, work after each step, exact resume."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autopeft.records import ModelShape
from autopeft.workers.adapter_tensors import trainable_parameters
from autopeft.workers.hooks import NO_HOOKS, Hooks, hooks_of
from autopeft.workers.injection import inject
from autopeft.workers.optimizers import (
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
)
from autopeft.workers.settings import TrainingSettings
from autopeft.workers.tasks.classification import Classification
from autopeft.workers.training import (
    train_segment,
)
from autopeft.workers.worker import WorkerPlan
from tests.workers import tiny

SETTINGS = TrainingSettings(batch_size=8, steps=6)
COUNT = "num_calls"


def faster_b(model: Any, learning_rate: float) -> list[dict[str, Any]]:
    """Train LoRA's B at four times the rate, as LoRA+ does."""
    named = [p for name, p in model.named_parameters() if "lora_B" in name]
    return [{"params": named, "lr_scale": 4.0}]


def shrink_by_gradient(model: Any, step: int, num_steps: int) -> None:
    """Use the gradients and a buffer that counts, as pruning schedules do."""
    count = model.get_buffer(COUNT)
    count += 1
    with torch.no_grad():
        for name, parameter in trainable_parameters(model).items():
            if "lora_A" in name:
                assert parameter.grad is not None
                small = parameter.grad.abs() < parameter.grad.abs().median()
                parameter[small] *= 1.0 - float(count) * step / (100 * num_steps)


HOOKS = Hooks(param_groups=(faster_b,), on_step=(shrink_by_gradient,))


def train(model: Any, optimizer: Any, plan: WorkerPlan, start: int, end: int) -> None:
    train_segment(
        model,
        optimizer,
        plan.data.train,
        Classification(),
        SETTINGS,
        learning_rate=0.02,
        seed=3,
        from_step=start,
        to_step=end,
        pad_token_id=0,
        hooks=HOOKS,
    )


def injected(base: Any, shape: ModelShape, seed: int = 3) -> Any:
    model = inject(base, tiny.configuration("lora"), shape, seed)
    model.register_buffer(COUNT, torch.zeros(()))
    return model


def test_segments_with_hooks_equal_one_go_bit_for_bit(
    tiny_base: Any, tiny_shape: ModelShape, tiny_plan: WorkerPlan
) -> None:
    whole = injected(tiny_base, tiny_shape)
    optimizer = make_optimizer(whole, 0.02, SETTINGS, HOOKS)
    train(whole, optimizer, tiny_plan, 0, 6)

    first = injected(tiny_base, tiny_shape)
    first_optimizer = make_optimizer(first, 0.02, SETTINGS, HOOKS)
    train(first, first_optimizer, tiny_plan, 0, 2)
    second = injected(tiny_base, tiny_shape, seed=99)
    second_optimizer = make_optimizer(second, 0.02, SETTINGS, HOOKS)
    with torch.no_grad():
        second.get_buffer(COUNT).copy_(first.get_buffer(COUNT))
        for name, parameter in trainable_parameters(first).items():
            trainable_parameters(second)[name].copy_(parameter)
    load_optimizer_tensors(second, second_optimizer, optimizer_tensors(first, first_optimizer))
    train(second, second_optimizer, tiny_plan, 2, 6)

    assert float(whole.get_buffer(COUNT)) == float(second.get_buffer(COUNT)) == 6
    expected, found = trainable_parameters(whole), trainable_parameters(second)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    moments = optimizer_tensors(whole, optimizer)
    assert all(
        torch.equal(tensor, optimizer_tensors(second, second_optimizer)[name])
        for name, tensor in moments.items()
    )


def test_scaled_group_trains_at_its_multiple_of_the_schedule(
    tiny_base: Any, tiny_shape: ModelShape, tiny_plan: WorkerPlan
) -> None:
    model = injected(tiny_base, tiny_shape)
    optimizer = make_optimizer(model, 0.02, SETTINGS, HOOKS)
    train(model, optimizer, tiny_plan, 0, 3)
    rates = {group["lr_scale"]: group["lr"] for group in optimizer.param_groups}
    names = {id(p): name for name, p in trainable_parameters(model).items()}
    faster = [g for g in optimizer.param_groups if g["lr_scale"] == 4.0]

    assert rates[4.0] == pytest.approx(4 * rates[1.0])
    assert all("lora_B" in names[id(p)] for group in faster for p in group["params"])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)


def test_parameter_in_two_groups_is_refused(tiny_base: Any, tiny_shape: ModelShape) -> None:
    model = injected(tiny_base, tiny_shape)
    with pytest.raises(ValueError, match=r"lora_B.* is listed in two groups"):
        make_optimizer(model, 0.02, SETTINGS, Hooks(param_groups=(faster_b, faster_b)))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_scale_that_is_no_positive_number_is_refused(
    scale: float, tiny_base: Any, tiny_shape: ModelShape
) -> None:
    model = injected(tiny_base, tiny_shape)
    hooks = Hooks(param_groups=(lambda *_: [{"params": [], "lr_scale": scale}],))
    with pytest.raises(ValueError, match="a positive number was expected"):
        make_optimizer(model, 0.02, SETTINGS, hooks)


def test_methods_without_a_module_file_have_no_hooks() -> None:
    assert hooks_of(tiny.configuration("mixture")) == NO_HOOKS
