"""Segments in virtual time: any number of workers, no model, no data, no waiting.

What a segment would bring is asked of a *world*: recorded curves, a landscape made up for tests,
a surrogate of either. When it would end is known at once, so that a search which takes days of
workers takes seconds here, and takes the same turns: the driver, proposers and stoppers are the
real ones.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from autopeft.errors import WorkerError
from autopeft.records import (
    FailureKind,
    Measurement,
    Segment,
    SegmentDone,
    SegmentEvent,
    SegmentFailed,
    Trial,
)
from autopeft.workers.executors.base import Executor


class VirtualClock:
    """Seconds that pass only when they are told to.

    Args:
        start: What the clock shows at first.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        """Return the virtual seconds that have passed."""
        return self._now

    def advance_to(self, seconds: float) -> None:
        """Let time pass until ``seconds``; it never goes back."""
        assert seconds >= self._now, f"from {self._now} back to {seconds}"
        self._now = seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What becomes of one segment.

    Attributes:
        seconds: How long it keeps a worker, finite and not negative; of a failure until it
            shows.
        score: As in :class:`~autopeft.records.Measurement`; not looked at where it failed.
        metrics: Likewise.
        memory_bytes: Likewise.
        failure: What it ends with in place of a measurement; None for a measurement.
        message: Of a failure, for people.
        least_memory_bytes: Where memory ran out, what the trial needs at least, if known.
    """

    seconds: float
    score: float = math.nan
    metrics: Mapping[str, float] = field(default_factory=dict)
    memory_bytes: int | None = None
    failure: FailureKind | None = None
    message: str = ""
    least_memory_bytes: int | None = None


class World(Protocol):
    """What training would bring.

    Contract: a pure function of its arguments, so that a segment that was lost and is trained
    again ends as it would have.
    """

    def outcome(self, trial: Trial, from_step: int, to_step: int) -> Outcome:
        """Return what becomes of training a trial from one step to another."""


class SimulatedExecutor(Executor):
    """Answer with what a world holds, in the order in which real workers would have answered.

    Segments that end at the same moment are answered in the order of submission. Workers that
    die and workers that are slow are drawn for each attempt at a segment from a generator of its
    own, seeded by (seed, trial, step, attempt): nothing depends on the order of events.
    Checkpoints are names, with nothing behind them.

    Args:
        world: Knows what becomes of segments.
        num_workers: Segments under way at a time.
        clock: Is set to the end of the segment that is answered.
        seed: Seeds failures and stragglers.
        failure_probability: That a segment's worker dies before it ends, at a uniformly
            distributed moment; the driver sees to a retry.
        straggler_probability: That a segment takes longer.
        straggler_factor: How many times as long, at least 1.
    """

    def __init__(
        self,
        world: World,
        num_workers: int,
        clock: VirtualClock,
        *,
        seed: int,
        failure_probability: float = 0.0,
        straggler_probability: float = 0.0,
        straggler_factor: float = 4.0,
    ) -> None:
        for name, value in (
            ("failure_probability", failure_probability),
            ("straggler_probability", straggler_probability),
        ):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} is {value}, expected a probability from 0 to 1")
        if not straggler_factor >= 1.0:
            raise ValueError(f"straggler_factor is {straggler_factor}, expected at least 1")
        self.num_workers = num_workers
        self._world = world
        self._clock = clock
        self._seed = seed
        self._failure_probability = failure_probability
        self._straggler_probability = straggler_probability
        self._straggler_factor = straggler_factor
        self._num_submitted = 0
        #: Moment of the end, order of submission, and the event, the earliest first.
        self._under_way: list[tuple[float, int, SegmentEvent]] = []
        self._is_closed = False

    def submit(self, segment: Segment) -> None:
        """Begin a segment now."""
        if self._is_closed:
            raise WorkerError("the executor is closed")
        assert len(self._under_way) < self.num_workers, "more segments than workers"
        seconds, event = self._end_of(segment)
        self._num_submitted += 1
        heapq.heappush(self._under_way, (self._clock.now() + seconds, self._num_submitted, event))

    def next_event(self, timeout_seconds: float | None = None) -> SegmentEvent | None:
        """Let time pass until the first segment ends, or until the timeout is over."""
        if not self._under_way:
            return None
        now = self._clock.now()
        ends = self._under_way[0][0]
        if timeout_seconds is not None and ends > now + timeout_seconds:
            if timeout_seconds > 0.0:
                # However short the wait, it ends later than it began.
                self._clock.advance_to(max(now + timeout_seconds, math.nextafter(now, ends)))
            return None
        self._clock.advance_to(ends)
        return heapq.heappop(self._under_way)[2]

    def close(self) -> None:
        """Lose what is under way."""
        self._is_closed = True
        self._under_way.clear()

    def _end_of(self, segment: Segment) -> tuple[float, SegmentEvent]:
        """Return how long a segment takes and what it ends with."""
        outcome = self._world.outcome(segment.trial, segment.from_step, segment.to_step)
        seconds = outcome.seconds
        assert math.isfinite(seconds), f"a segment of {seconds} seconds"
        if self._failure_probability or self._straggler_probability:
            attempt = (segment.trial.number, segment.to_step, segment.attempt)
            draws = np.random.default_rng([self._seed, *attempt]).random(3)
            if draws[1] < self._straggler_probability:
                seconds *= self._straggler_factor
            if draws[0] < self._failure_probability:
                died = SegmentFailed(
                    segment=segment,
                    kind=FailureKind.WORKER_DIED,
                    message="the simulated worker died",
                )
                return float(draws[2]) * seconds, died
        if outcome.failure is not None:
            failed = SegmentFailed(
                segment=segment,
                kind=outcome.failure,
                message=outcome.message,
                least_memory_bytes=outcome.least_memory_bytes,
            )
            return seconds, failed
        number, step = segment.trial.number, segment.to_step
        measurement = Measurement(
            trial=number,
            step=step,
            score=outcome.score,
            metrics=outcome.metrics,
            seconds=seconds,
            memory_bytes=outcome.memory_bytes,
            checkpoint=f"trial-{number:04d}-step-{step:05d}",
        )
        return seconds, SegmentDone(segment=segment, measurement=measurement)
