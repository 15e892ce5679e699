"""Optimisers: what they are, that they learn, and that their state survives a file."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import lorafa
from torch import nn

from autopeft.errors import InvalidJobError
from autopeft.records import ModelShape, Segment, SegmentDone
from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.search_spaces.method import get_method, num_trained
from autopeft.workers import optimizers
from autopeft.workers.adapter_tensors import trainable_parameters
from autopeft.workers.checkpoints import read_checkpoint
from autopeft.workers.injection import inject
from autopeft.workers.optimizers import (
    LoraFA,
    check_optimizer,
    freeze_lora_a,
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
)
from autopeft.workers.settings import OptimizerName, TrainingSettings
from autopeft.workers.worker import Worker, WorkerPlan
from tests.workers import tiny

NAMES = get_args(OptimizerName)
#: Of a trial: long enough for two segments.
STEPS = 6


def worker_of(name: OptimizerName, folder: Path, checkpoints: Path, plan: WorkerPlan) -> Worker:
    settings = tiny.make_settings(folder, checkpoints, optimizer=name, weight_decay=0.01)
    return Worker(settings, plan)


def run(worker: Worker, segment: Segment) -> str:
    event = worker.run(segment)
    assert isinstance(event, SegmentDone), event
    assert event.measurement.checkpoint is not None
    return event.measurement.checkpoint


@pytest.mark.parametrize("configuration", ["lora", "mixture"])
@pytest.mark.parametrize("name", NAMES)
def test_segments_equal_one_go_bit_for_bit(
    name: OptimizerName,
    configuration: str,
    tiny_folder: Path,
    tiny_plan: WorkerPlan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name == "adamw-8bit":
        in_8_bits_from(monkeypatch, 32)
    worker = worker_of(name, tiny_folder, tmp_path, tiny_plan)
    monkeypatch.setattr(Worker, "_longest_step", lambda *_: None)
    whole = run(worker, tiny.first_segment(0, configuration))
    first = tiny.first_segment(1, configuration, to_step=2)
    half = run(worker, first)
    later = Segment(trial=first.trial, from_step=2, to_step=STEPS, checkpoint=half)
    resumed = run(worker_of(name, tiny_folder, tmp_path, tiny_plan), later)

    one, two = (read_checkpoint(tmp_path, each) for each in (whole, resumed))
    assert np.array_equal(one.outputs, two.outputs)
    assert one.optimizer.keys() == two.optimizer.keys()
    assert all(torch.equal(one.optimizer[key], two.optimizer[key]) for key in one.optimizer)
    for group, tensors in one.adapter.items():
        assert all(torch.equal(tensors[key], two.adapter[group][key]) for key in tensors)
    assert bool(one.optimizer) == (name != "sgd")


def in_8_bits_from(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Let bitsandbytes keep states of smaller tensors in 8 bits too."""
    from bitsandbytes.optim import optimizer

    made: Any = optimizer.MockArgs
    monkeypatch.setattr(
        optimizer, "MockArgs", lambda values: made({**values, "min_8bit_size": size})
    )


@pytest.mark.parametrize("name", NAMES)
def test_training_moves_what_trains(
    name: OptimizerName, tiny_base: Any, tiny_shape: ModelShape
) -> None:
    model = inject(tiny_base, tiny.configuration("lora"), tiny_shape, 1)
    optimizer = make_optimizer(model, 0.01, TrainingSettings(optimizer=name))
    before = {key: p.detach().clone() for key, p in trainable_parameters(model).items()}
    assert not any("lora_A" in key for key in before) or name != "lora-fa"
    for parameter in trainable_parameters(model).values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moved = {key for key, p in trainable_parameters(model).items() if not p.equal(before[key])}
    assert moved == set(before)


@pytest.mark.parametrize("other", ["adamw", "adamw-8bit"])
def test_state_of_another_optimiser_is_refused(
    other: OptimizerName, tiny_base: Any, tiny_shape: ModelShape
) -> None:
    model = inject(tiny_base, tiny.configuration("lora"), tiny_shape, 1)
    trained = make_optimizer(model, 0.01, TrainingSettings(optimizer="adafactor"))
    for parameter in trainable_parameters(model).values():
        parameter.grad = torch.ones_like(parameter)
    trained.step()
    fresh = make_optimizer(model, 0.01, TrainingSettings(optimizer=other))
    with pytest.raises(ValueError, match="optimiser state of other parameters"):
        load_optimizer_tensors(model, fresh, optimizer_tensors(model, trained))


def test_adamw_8bit_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InvalidJobError, match="needs the package bitsandbytes") as caught:
        check_optimizer("adamw-8bit")
    assert "pip install" in str(caught.value.hint)
    check_optimizer("adamw")


#: What carries LoRA layers, and how many numbers of A train, by the space's own count.
OVER_LORA: dict[str, tuple[Module, ...]] = {
    "lora": (tiny.LORA,),
    "dora": (tiny.DORA,),
    "frozen-already": (
        Module.of("lora-fa", tiny.LAYERS, rank=2, alpha_ratio=2.0, sites=tiny.SITES),
    ),
    "none": (tiny.IA3, tiny.BEFT),
    "mixture": (tiny.LORA, tiny.IA3),
}


@pytest.mark.parametrize("modules", OVER_LORA.values(), ids=OVER_LORA)
def test_lora_fa_trains_what_is_counted(
    modules: tuple[Module, ...], tiny_base: Any, tiny_shape: ModelShape
) -> None:
    chosen = Configuration(modules=modules, learning_rate=0.01)
    model = inject(tiny_base, chosen, tiny_shape, 1)
    freeze_lora_a(model)
    built = sum(parameter.numel() for parameter in trainable_parameters(model).values())
    head = tiny_shape.num_head_parameters
    assert built == head + num_trained(tiny_shape, modules, "lora-fa")
    assert num_trained(tiny_shape, modules, "adamw") - num_trained(
        tiny_shape, modules, "lora-fa"
    ) == sum(get_method(each.method).num_lora_a(tiny_shape, each) for each in modules)


def two_layers() -> Any:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 6))
    config = LoraConfig(r=3, lora_alpha=6, target_modules=["0", "2"])
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    return model


def test_lora_fa_is_that_of_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lorafa, "is_bf16_available", lambda: False)
    ours, theirs = two_layers(), two_layers()
    pairs = freeze_lora_a(ours)
    group = {"params": list(trainable_parameters(ours).values()), "weight_decay": 0.0}
    mine: Any = LoraFA([group], pairs, 0.01)
    peft: Any = lorafa.create_lorafa_optimizer(theirs, r=3, lora_alpha=6, lr=0.01)
    x = torch.randn(5, 12)
    for _ in range(4):
        for model, optimizer in ((ours, mine), (theirs, peft)):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        # The two add epsilon in different places.
        assert torch.allclose(one, other, atol=1e-4), name
    assert len(pairs) == 2


def test_the_corrected_gradient_is_the_nearest_to_that_of_the_weight() -> None:
    """Check it against least squares: ``min |s G_B A - G|`` over ``G_B``."""
    torch.manual_seed(0)
    a, whole = torch.randn(3, 12), torch.randn(10, 12)
    scaling = 2.0
    b = nn.Parameter(torch.zeros(10, 3))
    b.grad = scaling * whole @ a.T
    optimizer = LoraFA([{"params": [b]}], [(b, a, scaling)], 0.01)
    optimizer.step()
    assert b.grad is not None
    nearest = torch.linalg.lstsq(scaling * a.T, whole.T).solution.T
    assert torch.allclose(b.grad, nearest, atol=1e-5)


def test_names_are_those_whose_memory_is_known() -> None:
    from autopeft.workers.memory.optimizers import OPTIMIZERS

    assert set(OPTIMIZERS) == set(NAMES)
    assert {"exp_avg", "exp_avg_sq", "step"} == optimizers.MOMENTS
