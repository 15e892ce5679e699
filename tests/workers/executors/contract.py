"""What every executor must do; an implementation's test class inherits this one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import pytest

from autopeft.errors import WorkerError
from autopeft.records import FailureKind, Segment, SegmentDone, SegmentFailed
from autopeft.search_spaces.configuration import Configuration
from autopeft.workers.checkpoints import read_checkpoint
from autopeft.workers.executors.base import Executor
from autopeft.workers.worker import WorkerPlan
from tests.workers import tiny


class ExecutorContract(ABC):
    """Give ``start`` an executor over the tiny model; the rest is inherited."""

    @abstractmethod
    def start(
        self, plan: WorkerPlan, folder: Path, checkpoints: Path, num_workers: int
    ) -> Executor:
        """Return an executor that writes its checkpoints to ``checkpoints``."""

    @pytest.fixture
    def executor(self, tiny_plan: WorkerPlan, tiny_folder: Path, tmp_path: Path) -> Executor:
        return self.start(tiny_plan, tiny_folder, tmp_path, 1)

    def test_a_segment_yields_one_event_and_a_checkpoint(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        segment = tiny.first_segment(0, "ia3", to_step=2)
        with executor:
            executor.submit(segment)
            event = executor.next_event()
            assert executor.next_event(0.0) is None

        assert isinstance(event, SegmentDone)
        assert event.segment == segment
        assert event.measurement.step == 2
        assert read_checkpoint(tmp_path, event.measurement.checkpoint).step == 2

    def test_nothing_submitted_yields_nothing(self, executor: Executor) -> None:
        with executor:
            assert executor.next_event(0.0) is None

    def test_a_trial_goes_on_from_its_checkpoint(self, executor: Executor, tmp_path: Path) -> None:
        with executor:
            executor.submit(tiny.first_segment(0, "lora"))
            whole = executor.next_event()
            first = tiny.first_segment(1, "lora", to_step=2)
            executor.submit(first)
            event = executor.next_event()
            assert isinstance(event, SegmentDone)
            name = event.measurement.checkpoint
            executor.submit(
                Segment(trial=first.trial, from_step=2, to_step=tiny.STEPS, checkpoint=name)
            )
            last = executor.next_event()

        assert isinstance(whole, SegmentDone)
        assert isinstance(last, SegmentDone)
        one, two = (
            read_checkpoint(tmp_path, event.measurement.checkpoint) for event in (whole, last)
        )
        assert one.outputs.tobytes() == two.outputs.tobytes()

    def test_as_many_events_as_segments(
        self, tiny_plan: WorkerPlan, tiny_folder: Path, tmp_path: Path
    ) -> None:
        with self.start(tiny_plan, tiny_folder, tmp_path, 2) as executor:
            assert executor.num_workers == 2
            for number in range(2):
                executor.submit(tiny.first_segment(number, "beft", to_step=1))
            events = [executor.next_event() for _ in range(2)]
            assert executor.next_event(0.0) is None

        assert sorted(event.segment.trial.number for event in events if event) == [0, 1]

    def test_a_failure_is_an_event_and_the_worker_lives_on(self, executor: Executor) -> None:
        trial = tiny.make_trial(0, Configuration(modules=(tiny.LORA,), learning_rate=1e30))
        with executor:
            executor.submit(Segment(trial=trial, from_step=0, to_step=tiny.STEPS))
            failed = executor.next_event()
            executor.submit(tiny.first_segment(1, "beft", to_step=1))
            done = executor.next_event()

        assert isinstance(failed, SegmentFailed)
        assert failed.kind is FailureKind.DIVERGED
        assert isinstance(done, SegmentDone)

    def test_closing_twice_is_closing_once(self, executor: Executor) -> None:
        executor.submit(tiny.first_segment(0, "beft", to_step=1))
        executor.close()
        executor.close()
        with pytest.raises(WorkerError, match="executor is closed"):
            executor.submit(tiny.first_segment(1, "beft", to_step=1))
