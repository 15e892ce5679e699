"""How long segments take: timed on the job's own workers, then learned from its log.

A segment costs a part for each of its steps and a part that does not depend on them: putting the
adapter on, evaluation and the checkpoint. A trial's last segment also generates answers or
measures retention, where the job asks for it.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopeft.errors import WorkerError
from autopeft.records import (
    TRAIN_SECONDS,
    Segment,
    SegmentDone,
    SegmentFailed,
    Trial,
    TrialState,
)
from autopeft.search_spaces.configuration import Configuration

if TYPE_CHECKING:
    from autopeft.results.job_log import JobLog
    from autopeft.service.job_spec import JobSpec
    from autopeft.service.preparation import Workbench
    from autopeft.workers.executors.base import Executor

#: Configurations that are timed, and the steps of each; batches differ in length, so one will
#: not do.
NUM_TIMED = 4
NUM_STEPS = 6
#: Steps that no one counts: the first ones of a process load kernels and fill caches.
NUM_WARM_UP_STEPS = 2
#: How long to wait for a worker before looking at the clock again, in seconds.
POLL_SECONDS = 0.5
#: Members of the space that the timed ones are chosen from.
NUM_CANDIDATES = 64
#: What a segment may take beyond what is expected of it before anything is known of the errors.
FIRST_MARGIN = 0.5
#: Errors from which on the job's own take the place of the first margin, and its bounds.
ENOUGH_ERRORS = 8
LEAST_MARGIN, MOST_MARGIN = 0.1, 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What one segment took.

    Attributes:
        configuration: What was trained.
        steps: Optimiser steps of it.
        train_seconds: Seconds of these steps together.
        other_seconds: Seconds of everything else in the worker.
        is_last: Whether it ended at the last step of a trial.
    """

    configuration: Configuration
    steps: int
    train_seconds: float
    other_seconds: float
    is_last: bool = False

    @property
    def step_seconds(self) -> float:
        """Seconds of a step."""
        return self.train_seconds / self.steps

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dictionary that :meth:`from_json` reads back."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {**plain, "configuration": self.configuration.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Timing:
        """Read what :meth:`to_json` wrote."""
        configuration = Configuration.from_json(data["configuration"])
        return cls(**{**data, "configuration": configuration})


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """What timing before the first trial told.

    Attributes:
        timings: One for each configuration, and one for what a last step adds.
        startup_seconds: What the first segment of each worker took longer than it worked: it
            waits for the model to be loaded.
        busy_seconds: What it kept the workers busy, all of them together.
    """

    timings: tuple[Timing, ...]
    startup_seconds: float
    busy_seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the data of a log's ``timing`` entry."""
        return {
            "timings": [timing.to_json() for timing in self.timings],
            "startup_seconds": self.startup_seconds,
            "busy_seconds": self.busy_seconds,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Timed:
        """Read what :meth:`to_json` wrote."""
        timings = tuple(Timing.from_json(each) for each in data["timings"])
        return cls(
            timings=timings,
            startup_seconds=float(data["startup_seconds"]),
            busy_seconds=float(data["busy_seconds"]),
        )


class SegmentCosts:
    """Expect the seconds of a segment from those that ended.

    A trial's own segments count for it, then those of the same methods, then all.

    Args:
        timings: What is known; more can be added.
    """

    def __init__(self, timings: Iterable[Timing] = ()) -> None:
        self._timings = list(timings)
        self._errors: list[float] = []

    def add(self, timing: Timing, expected: float | None = None) -> None:
        """Take in a segment that ended, and how long it was expected to take."""
        self._timings.append(timing)
        actual = timing.train_seconds + timing.other_seconds
        if expected:
            self._errors.append(actual / expected - 1.0)

    def __len__(self) -> int:
        return len(self._timings)

    @property
    def timings(self) -> tuple[Timing, ...]:
        """All that is known."""
        return tuple(self._timings)

    def expected(self, configuration: Configuration, steps: int, *, is_last: bool) -> float:
        """Return the seconds a segment will probably take; NaN where nothing is known."""
        if not self._timings:
            return math.nan
        alike = self._like(configuration)
        # Of several kinds the mean, not the median: what is new may be any of them.
        middle = statistics.fmean if alike is self._timings else statistics.median
        seconds = steps * middle([timing.step_seconds for timing in alike])
        usual = [timing.other_seconds for timing in alike if not timing.is_last]
        every = [timing.other_seconds for timing in self._timings if not timing.is_last]
        seconds += middle(usual or every or [timing.other_seconds for timing in alike])
        return seconds + (self.last_seconds if is_last else 0.0)

    @property
    def margin(self) -> float:
        """What segments of this job take beyond the expectation at worst, as a part of it."""
        if len(self._errors) < ENOUGH_ERRORS:
            return max([FIRST_MARGIN, *self._errors])
        return min(max([LEAST_MARGIN, *self._errors]), MOST_MARGIN)

    @property
    def last_seconds(self) -> float:
        """What a trial's last step takes beyond an evaluation."""
        last = [timing.other_seconds for timing in self._timings if timing.is_last]
        usual = [timing.other_seconds for timing in self._timings if not timing.is_last]
        if not last or not usual:
            return 0.0
        return max(0.0, statistics.median(last) - statistics.median(usual))

    def _like(self, configuration: Configuration) -> Sequence[Timing]:
        own = [t for t in self._timings if t.configuration == configuration]
        if own:
            return own
        methods = configuration.methods
        same = [t for t in self._timings if t.configuration.methods == methods]
        return same if len(same) > 1 else self._timings


def timings_in(log: JobLog, max_steps: int) -> list[Timing]:
    """Return what a log tells of the segments that ended, in the order of its trials."""
    return [timing for state in log.trials for timing in timings_of(state, max_steps)]


def timings_of(state: TrialState, max_steps: int) -> list[Timing]:
    """Return what a trial tells of its segments that ended, in order."""
    found = []
    step, trained = 0, 0.0
    for measurement in state.curve:
        total = measurement.metrics.get(TRAIN_SECONDS, math.nan)
        seconds = total - trained
        if math.isfinite(seconds) and seconds > 0 and math.isfinite(measurement.seconds):
            timing = Timing(
                configuration=state.trial.configuration,
                steps=measurement.step - step,
                train_seconds=seconds,
                other_seconds=max(0.0, measurement.seconds - seconds),
                is_last=measurement.step == max_steps,
            )
            found.append(timing)
        step, trained = measurement.step, total
    return found


def time_segments(
    spec: JobSpec,
    workbench: Workbench,
    on_progress: Callable[[str], None] = lambda text: None,
    *,
    most_seconds: float = math.inf,
) -> Timed:
    """Run a few short segments of representative configurations where the job's trials will run.

    Args:
        spec: The job.
        workbench: Its data, model and space.
        on_progress: Told what is going on.
        most_seconds: Worker-seconds that may be spent; what was timed by then has to do, be it
            nothing.

    Raises:
        WorkerError: none of them could be run.
    """
    from autopeft.service.starting import create_executor

    chosen = representative(workbench, seed=spec.seed)
    has_last = workbench.plan.generation is not None or workbench.plan.probe is not None
    short = workbench.training.model_copy(update={"steps": NUM_STEPS + 1, "epochs": None})
    with tempfile.TemporaryDirectory(prefix="autopeft-timing-") as folder:
        settings = spec.model_copy(update={"training": short})
        with create_executor(settings, Path(folder), workbench) as executor:
            run = _Run(executor, spec.seed, workbench, most_seconds)
            on_progress("timing: starting the workers")
            warm_up = [(chosen[0], 0, NUM_WARM_UP_STEPS)] * executor.num_workers
            run.all_of(warm_up)
            startup_seconds = run.waited_seconds / len(warm_up)
            run.forget()
            on_progress(f"timing: {len(chosen)} configurations, {NUM_STEPS} steps of each")
            run.all_of([(configuration, 0, NUM_STEPS) for configuration in chosen])
            if has_last and run.checkpoints:
                on_progress("timing: what a trial's last step measures")
                middle = list(run.checkpoints)[len(run.checkpoints) // 2]
                run.all_of([(middle, NUM_STEPS, NUM_STEPS + 1)])
            run.require()
    return Timed(
        timings=tuple(run.timings),
        startup_seconds=startup_seconds,
        busy_seconds=run.busy_seconds,
    )


def representative(workbench: Workbench, *, seed: int) -> list[Configuration]:
    """Return configurations at the middle of equal parts of the space, by predicted memory.

    Memory goes with time: both grow with the activations that a backward pass goes through.
    What a search begins with counts, and what it would draw.
    """
    portfolio = [proposal.configuration for proposal in workbench.space.portfolio()]
    number = max(0, NUM_CANDIDATES - len(portfolio))
    found = list(dict.fromkeys([*portfolio, *workbench.space.sobol(number, seed=seed)]))
    found = [each for each in found if _is_allowed(workbench, each)] or found
    found.sort(key=lambda each: _cost(workbench, each).train_memory_bytes)
    places = [(2 * i + 1) * len(found) // (2 * NUM_TIMED) for i in range(NUM_TIMED)]
    return list(dict.fromkeys(found[place] for place in places))


def _is_allowed(workbench: Workbench, configuration: Configuration) -> bool:
    cost = _cost(workbench, configuration)
    limit = workbench.memory_bytes
    fits = limit is None or cost.train_memory_bytes <= limit
    return fits and bool(workbench.prepared.scale.allows(cost))


def _cost(workbench: Workbench, configuration: Configuration) -> Any:
    return workbench.costs([configuration])[0]


class _Run:
    """Send segments and keep what became of them."""

    def __init__(
        self, executor: Executor, seed: int, workbench: Workbench, most_seconds: float
    ) -> None:
        self.timings: list[Timing] = []
        self.checkpoints: dict[Configuration, str] = {}
        self.busy_seconds = 0.0
        #: Part of it in which the worker of a segment was not at it.
        self.waited_seconds = 0.0
        self._executor = executor
        self._seed = seed
        self._workbench = workbench
        self._most_seconds = most_seconds
        self._num_trials = 0
        self._train_seconds: dict[str, float] = {}
        self._failure: SegmentFailed | None = None

    def all_of(self, wanted: Sequence[tuple[Configuration, int, int]]) -> None:
        """Run segments, each given by its configuration and its steps, on all workers."""
        waiting = list(wanted)
        running: dict[int, float] = {}
        while waiting or running:
            while waiting and len(running) < self._executor.num_workers and not self._is_over({}):
                segment = self._segment(*waiting.pop(0))
                running[segment.trial.number] = time.monotonic()
                self._executor.submit(segment)
            if not running:
                return
            event = self._executor.next_event(POLL_SECONDS)
            if event is None:
                if self._is_over(running):
                    # Those that still run are given up; they die with the executor.
                    self.busy_seconds = self._most_seconds
                    return
                continue
            began = running.pop(event.segment.trial.number)
            busy = time.monotonic() - began
            self.busy_seconds += busy
            if isinstance(event, SegmentDone):
                self.waited_seconds += max(0.0, busy - event.measurement.seconds)
                self._take(event)
            else:
                self._failure = event

    def forget(self) -> None:
        """Keep the time that was spent and nothing else."""
        self.timings.clear()
        self.checkpoints.clear()

    def require(self) -> None:
        """Make sure that something was timed, unless there was no time for it."""
        if self.timings or self._failure is None:
            return
        raise WorkerError(
            f"none of the {NUM_TIMED} configurations that were to be timed could be trained: "
            f"{self._failure.message}",
            hint="see what a search says: leave out --quote and budget.gpu_hours",
        )

    def _is_over(self, running: Mapping[int, float]) -> bool:
        """Tell whether the time that may be spent is, with that of running segments."""
        now = time.monotonic()
        under_way = math.fsum(now - began for began in running.values())
        return self.busy_seconds + under_way >= self._most_seconds

    def _segment(self, configuration: Configuration, from_step: int, to_step: int) -> Segment:
        self._num_trials += 1
        trial = Trial(
            number=self._num_trials,
            configuration=configuration,
            seed=self._seed + self._num_trials,
            origin="timing",
            costs=_cost(self._workbench, configuration),
        )
        checkpoint = self.checkpoints[configuration] if from_step else None
        return Segment(trial=trial, from_step=from_step, to_step=to_step, checkpoint=checkpoint)

    def _take(self, event: SegmentDone) -> None:
        segment, measurement = event.segment, event.measurement
        before = self._train_seconds.get(segment.checkpoint or "", 0.0)
        total = measurement.metrics[TRAIN_SECONDS]
        self._train_seconds[measurement.checkpoint] = total
        configuration = segment.trial.configuration
        self.checkpoints[configuration] = measurement.checkpoint
        self.timings.append(
            Timing(
                configuration=configuration,
                steps=segment.to_step - segment.from_step,
                train_seconds=max(total - before, 1e-9),
                other_seconds=max(0.0, measurement.seconds - (total - before)),
                is_last=segment.from_step > 0,
            )
        )
