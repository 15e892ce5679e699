"""What every executor must do; an implementation's test class inherits this one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
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
    """What holds for every executor, whether it trains or not; give it the fixture ``begin``."""

    @pytest.fixture
    @abstractmethod
    def begin(self) -> Callable[[int], Executor]:
        """Return what makes an executor with so many workers."""

    @pytest.fixture
    def executor(self, begin: Callable[[int], Executor]) -> Executor:
        return begin(1)

    def test_a_segment_yields_one_event(self, executor: Executor) -> None:
        segment = tiny.first_segment(0, "ia3", to_step=2)
        with executor:
            executor.submit(segment)
            event = executor.next_event()
            assert executor.next_event(0.0) is None

        assert isinstance(event, SegmentDone)
        assert event.segment == segment
        assert (event.measurement.trial, event.measurement.step) == (0, 2)

    def test_nothing_submitted_yields_nothing(self, executor: Executor) -> None:
        with executor:
            assert executor.next_event(0.0) is None

    def test_as_many_events_as_segments(self, begin: Callable[[int], Executor]) -> None:
        with begin(2) as executor:
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


class TrainingExecutorContract(ExecutorContract):
    """What holds besides where segments are trained; give ``start`` one over the tiny model."""

    @abstractmethod
    def start(
        self, plan: WorkerPlan, folder: Path, checkpoints: Path, num_workers: int
    ) -> Executor:
        """Return an executor that writes its checkpoints to ``checkpoints``."""

    @pytest.fixture
    def begin(
        self, tiny_plan: WorkerPlan, tiny_folder: Path, tmp_path: Path
    ) -> Callable[[int], Executor]:
        return lambda num_workers: self.start(tiny_plan, tiny_folder, tmp_path, num_workers)

    def test_the_checkpoint_that_is_named_is_there(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        with executor:
            executor.submit(tiny.first_segment(0, "ia3", to_step=2))
            event = executor.next_event()

        assert isinstance(event, SegmentDone)
        assert read_checkpoint(tmp_path, event.measurement.checkpoint).step == 2

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
