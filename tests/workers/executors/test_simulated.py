from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from autopeft.records import FailureKind, Segment, SegmentDone, SegmentEvent, SegmentFailed, Trial
from autopeft.workers.executors.base import Executor
from autopeft.workers.executors.simulated import Outcome, SimulatedExecutor, VirtualClock
from tests.workers import tiny
from tests.workers.executors.contract import ExecutorContract


@dataclass
class Steps:
    """A world in which a step takes a second, and large learning rates diverge."""

    memory_there: int = 100

    def outcome(self, trial: Trial, from_step: int, to_step: int) -> Outcome:
        if trial.configuration.learning_rate > 1.0:
            return Outcome(seconds=0.5, failure=FailureKind.DIVERGED, message="the loss is NaN")
        if self.memory_there < 10:
            return Outcome(
                seconds=1.0,
                failure=FailureKind.OUT_OF_MEMORY,
                message="no room",
                least_memory_bytes=10,
            )
        score = to_step / 100
        return Outcome(
            seconds=float(to_step - from_step),
            score=score,
            metrics={"accuracy": score},
            memory_bytes=10,
        )


def build(num_workers: int = 1, world: Steps | None = None, **options: Any) -> SimulatedExecutor:
    return SimulatedExecutor(
        world or Steps(), num_workers, VirtualClock(), **{"seed": 0, **options}
    )


def run(executor: SimulatedExecutor, *segments: Segment) -> list[tuple[float, SegmentEvent]]:
    """Submit segments all at once; return when each ended, and how."""
    for segment in segments:
        executor.submit(segment)
    ended = []
    while (event := executor.next_event()) is not None:
        ended.append((executor._clock.now(), event))
    return ended


class TestSimulated(ExecutorContract):
    @pytest.fixture
    def begin(self) -> Callable[[int], Executor]:
        return build


def test_segments_end_in_the_order_of_their_ends() -> None:
    steps = (3, 1, 2, 1)
    ended = run(build(4), *(tiny.first_segment(i, to_step=n) for i, n in enumerate(steps)))

    assert [seconds for seconds, _ in ended] == [1.0, 1.0, 2.0, 3.0]
    assert [event.segment.trial.number for _, event in ended] == [1, 3, 2, 0]


def test_a_measurement_says_what_the_world_holds() -> None:
    ((seconds, event),) = run(build(), tiny.first_segment(3, to_step=2))

    assert isinstance(event, SegmentDone)
    measured = event.measurement
    assert (measured.score, measured.metrics) == (0.02, {"accuracy": 0.02})
    assert (measured.seconds, seconds, measured.memory_bytes) == (2.0, 2.0, 10)
    assert measured.checkpoint == "trial-0003-step-00002"


def test_running_out_of_memory_says_what_is_needed() -> None:
    ((seconds, event),) = run(build(world=Steps(memory_there=5)), tiny.first_segment())

    assert seconds == 1.0
    assert event == SegmentFailed(
        segment=event.segment,
        kind=FailureKind.OUT_OF_MEMORY,
        message="no room",
        least_memory_bytes=10,
    )


def test_waiting_ends_in_virtual_time() -> None:
    executor = build()
    clock = executor._clock
    executor.submit(tiny.first_segment(to_step=2))

    assert executor.next_event(0.0) is None
    assert clock.now() == 0.0
    assert executor.next_event(0.5) is None
    assert clock.now() == 0.5
    assert executor.next_event(1e-300) is None
    assert 0.5 < clock.now() < 0.5001  # time passes however short the wait
    assert isinstance(executor.next_event(5.0), SegmentDone)
    assert clock.now() == 2.0


def test_workers_die_as_often_as_asked_and_a_retry_is_another_draw() -> None:
    segments = [tiny.first_segment(number, to_step=2) for number in range(400)]
    ended = run(build(400, failure_probability=0.25), *segments)
    died = [(at, event) for at, event in ended if isinstance(event, SegmentFailed)]

    assert len(ended) == 400
    assert 0.19 < len(died) / 400 < 0.31
    assert {event.kind for _, event in died} == {FailureKind.WORKER_DIED}
    assert min(at for at, _ in died) < 0.2
    assert max(at for at, _ in died) > 1.8

    again = [replace(event.segment, attempt=1) for _, event in died]
    retried = run(build(400, failure_probability=0.25), *again)
    assert 0 < sum(isinstance(event, SegmentFailed) for _, event in retried) < len(died) / 2


def test_stragglers_take_their_factor() -> None:
    segments = [tiny.first_segment(number, to_step=2) for number in range(400)]
    ended = run(build(400, straggler_probability=0.1, straggler_factor=5.0), *segments)
    slow = [event for at, event in ended if at == 10.0]

    assert {at for at, _ in ended} == {2.0, 10.0}
    assert 0.06 < len(slow) / 400 < 0.15
    assert all(isinstance(e, SegmentDone) and e.measurement.seconds == 10.0 for e in slow)


def test_what_goes_wrong_depends_on_the_seed_and_not_on_the_order() -> None:
    segments = [tiny.first_segment(number, to_step=2) for number in range(40)]
    options: dict[str, Any] = {"failure_probability": 0.3, "straggler_probability": 0.3}
    forwards, backwards, other = (
        {event.segment.trial.number: (at, event) for at, event in run(executor, *order)}
        for executor, order in (
            (build(40, **options), segments),
            (build(40, **options), segments[::-1]),
            (build(40, seed=1, **options), segments),
        )
    )
    assert forwards == backwards
    assert forwards != other


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"failure_probability": 1.5}, "failure_probability is 1.5, expected a probability"),
        ({"straggler_probability": -0.1}, "straggler_probability is -0.1"),
        ({"straggler_factor": 0.5}, "straggler_factor is 0.5, expected at least 1"),
    ],
)
def test_odd_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_time_never_goes_back() -> None:
    clock = VirtualClock(5.0)
    clock.advance_to(5.0)
    with pytest.raises(AssertionError, match=r"from 5.0 back to 4.0"):
        clock.advance_to(4.0)
