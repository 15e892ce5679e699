"""``budget.gpu_hours``: a cap on what segments keep the workers busy, never exceeded.

What counts is the time from a segment's submission to its answer, loading of the model included,
times the GPUs of a worker (times 1 where it has none). A segment is sent only where what is
spent, what runs and what the segment will hardly exceed fit together. One that takes longer all
the same is cut off when the cap is reached, where its worker is another process; the ``inline``
executor cannot be interrupted. Everything is in the log, so that a resume goes on counting; a
segment that was lost with its driver counts as if it had run to its end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from autopeft.naming import counted
from autopeft.records import Segment
from autopeft.service.job_spec import JobSpec
from autopeft.service.segment_costs import SegmentCosts

SECONDS_PER_HOUR = 3600.0


class WorkerTime:
    """Count the time of segments under way and decide what still fits.

    Args:
        spec: The job; without ``budget.gpu_hours`` everything fits.
        costs: What segments are expected to take; NaN, which never fits, where it knows nothing.
        spent: Returns the worker-seconds that the log holds.
        startup_seconds: What the first segment of each worker takes longer, which waits for the
            worker to load its model.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        spec: JobSpec,
        costs: SegmentCosts,
        spent: Callable[[], float],
        *,
        startup_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_steps = spec.training.steps
        self._gpus = spec.workers.gpus or 1.0
        self._unit = "GPU" if spec.workers.gpus else "worker"
        self._hours = spec.budget.gpu_hours
        self._costs = costs
        self._spent = spent
        self._clock = clock
        self._startup_seconds = startup_seconds
        self._num_starting = spec.workers.num
        #: Moment of submission and the most it will take, by trial.
        self._running: dict[int, tuple[float, float]] = {}
        self.has_refused = False

    @property
    def limit_seconds(self) -> float:
        """Worker-seconds that the cap comes to; infinite without one."""
        if self._hours is None:
            return math.inf
        return self._hours * SECONDS_PER_HOUR / self._gpus

    @property
    def used_seconds(self) -> float:
        """Worker-seconds spent, those of running segments so far included."""
        now = self._clock()
        return self._spent() + math.fsum(now - began for began, _ in self._running.values())

    @property
    def is_over(self) -> bool:
        """Whether the cap is reached."""
        return self.used_seconds >= self.limit_seconds

    def wait_seconds(self, most: float) -> float:
        """Return how long to wait for a worker without missing the moment the cap is reached."""
        if self._hours is None or not self._running:
            return most
        left = (self.limit_seconds - self.used_seconds) / len(self._running)
        return min(most, max(0.0, left))

    def fits(self, segment: Segment) -> bool:
        """Tell whether a segment may be sent; keeps in mind where it may not."""
        if self._hours is None:
            return True
        now = self._clock()
        under_way = math.fsum(max(most, now - began) for began, most in self._running.values())
        needed = self._spent() + under_way + self._at_most(segment)
        if needed <= self.limit_seconds:
            return True
        self.has_refused = True
        return False

    def begin(self, segment: Segment) -> None:
        """Take note of a segment that is sent."""
        at_most = 0.0 if self._hours is None else self._at_most(segment)
        self._running[segment.trial.number] = (self._clock(), at_most)
        self._num_starting = max(0, self._num_starting - 1)

    def end(self, number: int) -> float:
        """Return the seconds that the segment of a trial kept its worker; it is over."""
        began, _ = self._running.pop(number)
        return self._clock() - began

    def lost_seconds(self, segment: Segment) -> float:
        """Return what a segment counts whose driver died; 0 where nothing is known."""
        seconds = self._at_most(segment)
        return seconds if math.isfinite(seconds) else 0.0

    def expected(self, segment: Segment) -> float | None:
        """Return the seconds a segment will probably take; None where no cap asks for it."""
        return None if self._hours is None else self._expected(segment)

    def _expected(self, segment: Segment) -> float:
        return self._costs.expected(
            segment.trial.configuration,
            segment.to_step - segment.from_step,
            is_last=segment.to_step == self._max_steps,
        )

    @property
    def reason(self) -> str:
        """Say that the cap ended the job."""
        assert self._hours is not None
        used = self._gpus * self.used_seconds / SECONDS_PER_HOUR
        digits = 3 if self._hours < 0.1 else 2
        return (
            f"the budget of {counted(self._hours, f'{self._unit}-hour')} is spent "
            f"({used:.{digits}g} used)"
        )

    def _at_most(self, segment: Segment) -> float:
        starts = self._startup_seconds if self._num_starting else 0.0
        return (1.0 + self._costs.margin) * (self._expected(segment) + starts)
