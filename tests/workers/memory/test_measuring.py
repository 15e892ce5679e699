"""Measured memory: accounted on the CPU, and told by an allocator, here a scripted one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autopeft.records import MeasuredMemory, Measurement, SegmentDone
from autopeft.workers import worker as worker_module
from autopeft.workers.checkpoints import read_checkpoint
from autopeft.workers.data.batches import collate
from autopeft.workers.hooks import NO_HOOKS
from autopeft.workers.memory.inputs import longest_rows
from autopeft.workers.memory.measuring import (
    CudaMemory,
    accounted_bytes,
    longest_batches,
    resident_bytes,
)
from autopeft.workers.settings import TrainingSettings
from autopeft.workers.worker import Worker, WorkerPlan
from tests.workers import tiny
from tests.workers.conftest import tiny_folder, tiny_plan

__all__ = ["tiny_folder", "tiny_plan"]

DEVICE = torch.device("cuda", 0)
WIDTH = 64
ROWS = 128


class Product(nn.Module):
    """``y = x @ frozen @ trained``: every tensor of its step can be counted by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Parameter(torch.ones(WIDTH, WIDTH), requires_grad=False)
        self.tied = self.frozen
        self.trained = nn.Parameter(torch.ones(WIDTH, WIDTH))
        self.register_buffer("positions", torch.zeros(10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.frozen @ self.trained


class SumTask:
    def num_targets(self, batch: Any) -> int:
        return len(batch["x"])

    def forward(self, model: Any, batch: Any) -> torch.Tensor:
        outputs: torch.Tensor = model(**batch)
        return outputs

    def loss(self, outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        return outputs.sum()


def account(num_parts: int = 1, rows: int = ROWS) -> int:
    model = Product()
    optimizer = torch.optim.AdamW([model.trained], lr=1e-3)
    batch = {"x": torch.ones(rows, WIDTH)}
    task: Any = SumTask()
    settings = TrainingSettings()
    return accounted_bytes(model, optimizer, [batch] * num_parts, task, settings, NO_HOOKS)


WEIGHT = 4 * WIDTH * WIDTH
STATE = 2 * WEIGHT + 4  # the moments, and a counter of steps
RESIDENT = 2 * WEIGHT + 40


def test_resident_bytes_count_each_storage_once() -> None:
    assert resident_bytes(Product()) == RESIDENT


def test_activations_decide_where_the_batch_is_large() -> None:
    activation = 4 * ROWS * WIDTH
    # Two activations in the forward pass; a few scalars come on top.
    assert account() - RESIDENT - STATE == pytest.approx(2 * activation, abs=WEIGHT + 64)


def test_the_optimiser_decides_where_the_batch_is_small() -> None:
    # Gradients, state, and AdamW's two temporaries for one parameter.
    assert account(rows=2) - RESIDENT - STATE == pytest.approx(3 * WEIGHT, abs=64)


def test_later_parts_meet_the_gradients_of_the_first() -> None:
    assert account(2) - account() == pytest.approx(WEIGHT, abs=64)


def test_longest_batches(tiny_plan: WorkerPlan) -> None:
    split = tiny_plan.data.train
    settings = TrainingSettings(batch_size=8, gradient_accumulation=4)
    first, second = longest_batches(split, settings, 0)
    assert first is second
    assert first["input_ids"].shape == (
        2,
        collate(split, longest_rows(split, 2), 0)["input_ids"].shape[1],
    )
    assert len(longest_rows(split, len(split) + 3)) == len(split) + 3
    rows = longest_rows(split, 5)
    assert split.lengths[rows].min() == np.sort(split.lengths)[-5]


@pytest.fixture
def worker(tiny_folder: Path, tiny_plan: WorkerPlan, tmp_path: Path) -> Worker:
    return Worker(tiny.make_settings(tiny_folder, tmp_path), tiny_plan)


def run(worker: Worker, segment: Any) -> Measurement:
    event = worker.run(segment)
    assert isinstance(event, SegmentDone), event
    return event.measurement


@pytest.mark.parametrize("name", ["lora", "mixture-with-prefix"])
def test_measuring_does_not_change_training(
    name: str, worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = run(worker, tiny.first_segment(0, name))
    monkeypatch.setattr(Worker, "_longest_step", lambda *_: None)
    plain = run(worker, tiny.first_segment(1, name))
    assert plain.memory is None
    assert measured.memory is not None
    one, two = (read_checkpoint(tmp_path, m.checkpoint) for m in (measured, plain))
    assert measured.metrics["train_loss"] == plain.metrics["train_loss"]
    assert np.array_equal(one.outputs, two.outputs)
    for group, tensors in one.adapter.items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, two.adapter[group][key]), key


def test_a_trial_is_accounted_for_once(worker: Worker) -> None:
    first = tiny.first_segment(0, "lora", to_step=2)
    measurement = run(worker, first)
    later = type(first)(
        trial=first.trial, from_step=2, to_step=4, checkpoint=measurement.checkpoint
    )
    assert measurement.memory_bytes is not None
    assert run(worker, later).memory is None


def test_accounting_repeats_to_the_byte(worker: Worker) -> None:
    peaks = {run(worker, tiny.first_segment(number, "dora")).memory_bytes for number in range(2)}
    assert len(peaks) == 1


class FakeCuda:
    """``torch.cuda``'s statistics of one process; reserves in blocks of 100."""

    def __init__(self) -> None:
        self.allocated = self.reserved = 0
        self.most_allocated = self.most_reserved = 0

    def allocate(self, num_bytes: int) -> None:
        self.allocated += num_bytes
        self.reserved = max(self.reserved, -(-self.allocated // 100) * 100)
        self.most_allocated = max(self.most_allocated, self.allocated)
        self.most_reserved = max(self.most_reserved, self.reserved)

    def memory_allocated(self, device: torch.device) -> int:
        assert device == DEVICE
        return self.allocated

    def memory_reserved(self, device: torch.device) -> int:
        return self.reserved

    def max_memory_allocated(self, device: torch.device) -> int:
        return self.most_allocated

    def max_memory_reserved(self, device: torch.device) -> int:
        return self.most_reserved

    def reset_peak_memory_stats(self, device: torch.device) -> None:
        self.most_allocated, self.most_reserved = self.allocated, self.reserved

    def get_device_properties(self, device: torch.device) -> SimpleNamespace:
        return SimpleNamespace(total_memory=1000)

    def set_per_process_memory_fraction(self, fraction: float, device: torch.device) -> None:
        self.fraction = fraction

    def empty_cache(self) -> None:
        self.reserved = -(-self.allocated // 100) * 100


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda()


def load(cuda: FakeCuda, num_bytes: int) -> CudaMemory:
    memory = CudaMemory(DEVICE, cuda)
    cuda.allocate(num_bytes)
    memory.base_is_loaded()
    return memory


def trial(cuda: FakeCuda, memory: CudaMemory, peak: int, *, left: int = 0) -> MeasuredMemory:
    memory.begin()
    cuda.allocate(peak)
    cuda.allocate(left - peak)
    found = memory.peaks()
    memory.tidy()
    return found


def test_trials_after_one_another_do_not_see_each_other(cuda: FakeCuda) -> None:
    memory = load(cuda, 1000)
    first = trial(cuda, memory, 500, left=30)  # something of it stays behind
    second = trial(cuda, memory, 200)
    assert first == MeasuredMemory(
        kind="cuda", peak_bytes=1500, base_bytes=1000, reserved_bytes=1500
    )
    assert (second.peak_bytes, second.base_bytes) == (1200, 1000)
    assert second.reserved_bytes == 1200


def test_a_second_base_in_the_process_is_not_counted(cuda: FakeCuda) -> None:
    one = load(cuda, 1000)
    other = load(cuda, 300)
    assert trial(cuda, one, 500).peak_bytes == 1500
    assert trial(cuda, other, 500).peak_bytes == 800


def test_each_segment_has_a_peak_of_its_own(cuda: FakeCuda) -> None:
    memory = load(cuda, 1000)
    assert [trial(cuda, memory, peak).peak_bytes for peak in (900, 100)] == [1900, 1100]


def test_reference_cycles_of_an_earlier_model_are_let_go(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = load(cuda, 1000)
    memory.begin()
    cuda.allocate(500)
    monkeypatch.setattr("gc.collect", lambda: cuda.allocate(-500))
    memory.tidy()
    assert cuda.allocated == 1000
    assert cuda.reserved == 1000


def test_out_of_memory_in_the_longest_step_is_the_trials_own(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(worker_module, "accounted_bytes", fail)
    event: Any = worker.run(tiny.first_segment(0, "lora"))
    assert event.kind.value == "out_of_memory"


def test_an_error_of_the_accounting_costs_the_measurement_alone(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> int:
        raise ValueError("a storage was not known")

    whole = run(worker, tiny.first_segment(0, "lora"))
    monkeypatch.setattr(worker_module, "accounted_bytes", fail)
    with pytest.warns(UserWarning, match="memory of trial 1 could not be measured: ValueError: a"):
        lacking = run(worker, tiny.first_segment(1, "lora"))
    assert (lacking.memory, lacking.memory_bytes) == (None, None)
    assert lacking.metrics["train_loss"] == whole.metrics["train_loss"]
    assert lacking.score == whole.score


@pytest.fixture
def gpu_worker(tiny_folder: Path, tiny_plan: WorkerPlan, tmp_path: Path) -> Worker:
    return Worker(tiny.make_settings(tiny_folder, tmp_path), tiny_plan, device="cuda")


@pytest.mark.gpu
def test_a_gpu_tells_the_same_of_a_trial_run_twice(gpu_worker: Worker) -> None:
    first = run(gpu_worker, tiny.first_segment(0, "lora")).memory
    run(gpu_worker, tiny.first_segment(1, "dora"))
    again = run(gpu_worker, tiny.first_segment(2, "lora")).memory
    assert first is not None
    assert first == again
    assert first.reserved_bytes is not None
    assert first.reserved_bytes >= first.peak_bytes > first.base_bytes > 0


@pytest.mark.parametrize(("limit", "fraction"), [(250, 0.25), (5000, 1.0)])
def test_a_gpu_gives_no_more_than_the_limit(limit: int, fraction: float) -> None:
    cuda = FakeCuda()
    CudaMemory(DEVICE, cuda).limit(limit)
    assert cuda.fraction == fraction
