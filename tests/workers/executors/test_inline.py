from __future__ import annotations

from pathlib import Path

import pytest

from autopeft.errors import ModelError
from autopeft.records import TRAIN_SECONDS, SegmentDone
from autopeft.workers.executors.base import EXECUTORS, Executor
from autopeft.workers.executors.inline import InlineExecutor
from autopeft.workers.settings import WorkersSettings
from autopeft.workers.worker import WorkerPlan
from tests.workers import tiny
from tests.workers.executors.contract import TrainingExecutorContract


class TestInline(TrainingExecutorContract):
    def start(
        self, plan: WorkerPlan, folder: Path, checkpoints: Path, num_workers: int
    ) -> Executor:
        settings = tiny.make_settings(folder, checkpoints)
        return InlineExecutor(settings, WorkersSettings(num=num_workers), plan)

    def test_first_in_first_out(self, executor: Executor) -> None:
        with executor:
            for number in (4, 2, 3):
                executor.submit(tiny.first_segment(number, "beft", to_step=1))
            events = [executor.next_event() for _ in range(3)]

        assert [event.segment.trial.number for event in events if event] == [4, 2, 3]

    def test_a_model_that_cannot_be_loaded_is_named(
        self, tiny_plan: WorkerPlan, tmp_path: Path
    ) -> None:
        folder = tiny.write_model(tmp_path / "broken")
        plan = tiny.make_plan(folder)
        (folder / "model.safetensors").write_bytes(b"")
        with self.start(plan, folder, tmp_path, 1) as executor:
            executor.submit(tiny.first_segment())
            with pytest.raises(ModelError, match="cannot load the weights of broken"):
                executor.next_event()

    def test_two_runs_are_equal(
        self, tiny_plan: WorkerPlan, tiny_folder: Path, tmp_path: Path
    ) -> None:
        metrics = []
        for run in ("one", "two"):
            with self.start(tiny_plan, tiny_folder, tmp_path / run, 1) as executor:
                executor.submit(tiny.first_segment(0, "dora"))
                event = executor.next_event()
                assert isinstance(event, SegmentDone)
                measured = event.measurement.metrics
                metrics.append({k: v for k, v in measured.items() if k != TRAIN_SECONDS})

        assert metrics[0] == metrics[1]


def test_executors_are_registered() -> None:
    assert {"inline", "ray"} <= set(EXECUTORS.names())
    assert EXECUTORS.get("inline") is InlineExecutor
