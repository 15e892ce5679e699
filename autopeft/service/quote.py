"""What a search will cost, before it starts and while it runs.

The model: every trial is trained to the first rung. The first few at a rung go on unjudged; each
of the others goes on with a probability that is not known but was met in other searches
(:data:`GO_ON`), and that the job's own log corrects as it grows. A segment costs its steps and a
part of its own (see :mod:`~autopeft.service.segment_costs`), whose means over the trials to come
are known from a few timed configurations only. All three uncertainties are drawn from, and the
middle and a central interval of the sums are told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autopeft.naming import counted
from autopeft.records import TrialStatus
from autopeft.service.segment_costs import SegmentCosts, Timing, time_segments, timings_in

if TYPE_CHECKING:
    from autopeft.results.job_log import JobLog
    from autopeft.service.job_spec import JobSpec
    from autopeft.service.observer import Observer
    from autopeft.stoppers.base import Stopper

#: How often a judged trial went on from the first and from a later rung under ``halving``, as
#: parameters of a beta distribution: 8 searches of 24 trials with MiniLM and docstring-lm on five
#: data sets had 88 of 168 and 65 of 88 go on. The strengths are of the order of the spread
#: between these searches.
GO_ON = ((20.0, 18.0), (15.0, 5.3))
#: Trials that halving lets pass each rung unjudged.
NUM_UNJUDGED = 3
NUM_DRAWS = 4000
#: Trials of a job that time alone ends.
MANY_TRIALS = 10_000
#: The interval covers this much of the draws.
COVERAGE = 0.9
#: Relative standard deviation of a machine's speed between a timing and the search that follows.
SPEED_SPREAD = 0.05
#: Two halves of an interval: its lower and its upper end.
_ENDS = ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What a job costs from its beginning to its end.

    Attributes:
        hours: Hours that segments keep GPUs busy (workers, where they have no GPU): the middle.
        low: Lower end of the interval.
        high: Upper end of the interval.
        spent: Part of it that is spent already.
        unit: ``GPU`` or ``worker``.
        num_trials: Trials proposed.
        num_steps: Optimiser steps of all trials together.
        num_full: Trials trained to the last step.
        wall_seconds: On all workers together, where none waits.
        step_seconds: A step, on average over the configurations that are known.
        other_seconds: The rest of a segment, likewise.
        is_cut: Whether a limit in steps, minutes or GPU-hours ends it before its trials are done.
    """

    hours: float
    low: float
    high: float
    spent: float
    unit: str
    num_trials: int
    num_steps: int
    num_full: int
    wall_seconds: float
    step_seconds: float
    other_seconds: float
    is_cut: bool

    def __str__(self) -> str:
        """Write it in one line, such as ``about 1.8 GPU-hours (1.5-2.2): 24 trials, ...``."""
        digits = 2 if self.high >= 0.1 else 3
        low, middle, high = (f"{each:.{digits}g}" for each in (self.low, self.hours, self.high))
        spent = f", {self.spent:.{digits}g} spent" if self.spent else ""
        return (
            f"about {middle} {self.unit}-hours ({low}-{high}{spent}): "
            f"{counted(self.num_trials, 'trial')}, about {self.num_full} to the end, "
            f"{self.num_steps:,} steps in all, {_seconds(self.step_seconds)} a step, "
            f"{_seconds(self.other_seconds)} to evaluate and save; "
            f"{_minutes(self.wall_seconds)} of work"
            + (", cut short by the budget" if self.is_cut else "")
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return {name: getattr(self, name) for name in self.__slots__}


def quote(
    spec: JobSpec,
    rungs: Sequence[int],
    timings: Sequence[Timing],
    *,
    log: JobLog | None = None,
    timing_seconds: float = 0.0,
    startup_seconds: float = 0.0,
) -> Quote:
    """Return what a job will cost; the same arguments give the same answer.

    Args:
        spec: The job, epochs resolved to steps.
        rungs: Steps at which the stopper judges, the last one of a trial included.
        timings: What is known of segments; at least one.
        log: The job's log, where it has begun: what is spent counts as it is, and the shares of
            trials that went on correct the model's.
        timing_seconds: Worker-seconds of timing that the job itself pays for.
        startup_seconds: What the first segment of each worker waits for its model.
    """
    generator = np.random.default_rng(spec.seed)
    counts = _counts_by_rung(log, rungs)
    shares = _drawn_shares(counts, generator)
    num_trials = _num_trials(spec, shares, rungs)
    begun = counts[0] if log is not None else 0
    coming = max(0, num_trials - begun)
    reached = _drawn_counts(shares, coming, begun, log, rungs, generator)
    mean_step, mean_other, last = _drawn_means(timings, generator)
    lengths = np.diff([0, *rungs])
    steps = reached @ lengths
    seconds = steps * mean_step + reached.sum(axis=1) * mean_other + reached[:, -1] * last
    seconds += startup_seconds * spec.workers.num
    seconds *= np.exp(SPEED_SPREAD * generator.standard_normal(NUM_DRAWS))
    gpus = spec.workers.gpus or 1.0
    spent_seconds = timing_seconds if log is None else log.busy_seconds
    spent_steps = 0 if log is None else log.total_steps
    part = _part_within_limits(spec, seconds, steps, spent_seconds, spent_steps, log)
    usual = float(np.median(part))
    hours = gpus * (spent_seconds + part * seconds) / 3600
    low, middle, high = (float(np.quantile(hours, q)) for q in (_ENDS[0], 0.5, _ENDS[1]))
    return Quote(
        hours=middle,
        low=low,
        high=high,
        spent=gpus * spent_seconds / 3600,
        unit="GPU" if spec.workers.gpus else "worker",
        num_trials=begun + round(usual * coming),
        num_steps=round(float(np.median(part * steps))) + spent_steps,
        num_full=round(usual * float(np.median(reached[:, -1]))) + counts[-1],
        wall_seconds=float(np.median(spent_seconds + part * seconds)) / spec.workers.num,
        step_seconds=float(np.mean([timing.step_seconds for timing in timings])),
        other_seconds=float(
            np.mean([t.other_seconds for t in timings if not t.is_last] or [math.nan])
        ),
        is_cut=usual < 1.0,
    )


def quote_ahead(spec: JobSpec, observer: Observer) -> Quote:
    """Time a few steps on the job's own workers and return what a search will cost.

    Where the job has a folder already, what its log tells is used instead, and nothing is timed.

    Raises:
        AutopeftError: data, model or space do not fit the job, or nothing could be timed.
    """
    from autopeft.service.jobs import JobFolder, open_job
    from autopeft.service.preparation import prepare
    from autopeft.stoppers.base import STOPPERS

    log = open_job(spec.folder) if JobFolder(spec.folder).log.is_file() else None
    bench = prepare(
        spec,
        scale=None if log is None else log.scale,
        on_phase=observer.on_phase,
        on_progress=observer.on_progress,
    )
    spec = spec.model_copy(update={"training": bench.training})
    arguments: dict[str, Any] = {
        "space": bench.space,
        "scale": bench.prepared.scale,
        "costs": bench.costs,
        "max_steps": spec.training.steps,
        "seed": spec.seed,
    }
    rungs = rungs_of(STOPPERS.get(spec.stopper)(**arguments))
    timings = [] if log is None else timings_in(log, spec.training.steps)
    timing_seconds = startup_seconds = 0.0
    if not timings:
        observer.on_phase("timing a few steps")
        timed = time_segments(spec, bench, observer.on_progress)
        timings, startup_seconds = list(timed.timings), timed.startup_seconds
        # A search with a cap in hours times these steps too, and pays for them.
        timing_seconds = 0.0 if spec.budget.gpu_hours is None else timed.busy_seconds
    return quote(
        spec,
        rungs,
        timings,
        log=log,
        timing_seconds=timing_seconds,
        startup_seconds=startup_seconds,
    )


def rungs_of(stopper: Stopper) -> tuple[int, ...]:
    """Return the steps at which a stopper measures a trial, the last step included."""
    rungs = [stopper.next_rung(0)]
    while rungs[-1] < stopper.max_steps:
        rungs.append(stopper.next_rung(rungs[-1]))
    return tuple(rungs)


def _counts_by_rung(log: JobLog | None, rungs: Sequence[int]) -> list[int]:
    """Return how many trials were measured at each rung; at the first, those that began."""
    if log is None:
        return [0] * len(rungs)
    counts = [sum(state.step >= rung for state in log.trials) for rung in rungs]
    return [max(counts[0], len(log.states)), *counts[1:]]


def _drawn_shares(counts: Sequence[int], generator: np.random.Generator) -> NDArray[np.float64]:
    """Return draws of the share of judged trials that go on from each rung but the last."""
    shares = np.empty((NUM_DRAWS, len(counts) - 1))
    for place in range(len(counts) - 1):
        a, b = GO_ON[min(place, len(GO_ON) - 1)]
        judged = max(0, counts[place] - NUM_UNJUDGED)
        went_on = min(judged, max(0, counts[place + 1] - NUM_UNJUDGED))
        shares[:, place] = generator.beta(a + went_on, b + judged - went_on, NUM_DRAWS)
    return shares


def _num_trials(spec: JobSpec, shares: NDArray[np.float64], rungs: Sequence[int]) -> int:
    """Return how many trials there will be, as far as trials and steps decide it."""
    if spec.budget.trials is not None:
        return spec.budget.trials
    if spec.budget.steps is None:
        return MANY_TRIALS
    chances = np.concatenate([np.ones((NUM_DRAWS, 1)), np.cumprod(shares, axis=1)], axis=1)
    mean = float(np.mean(chances @ np.diff([0, *rungs])))
    return max(1, math.ceil(spec.budget.steps / mean))


def _drawn_counts(
    shares: NDArray[np.float64],
    coming: int,
    begun: int,
    log: JobLog | None,
    rungs: Sequence[int],
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """Return draws of how many segments to each rung are still to be run."""
    reached = np.zeros((NUM_DRAWS, len(rungs)))
    # Trials under way, by the rung they are going to; each goes on from there as others do.
    arriving = np.zeros(len(rungs), dtype=np.int64)
    for state in () if log is None else log.trials:
        if state.status in (TrialStatus.PROPOSED, TrialStatus.RUNNING):
            ahead = next((i for i, rung in enumerate(rungs) if rung > state.step), None)
            if ahead is not None:
                arriving[ahead] += 1
    flow = np.full(NUM_DRAWS, coming)
    for place in range(len(rungs)):
        flow = flow + arriving[place]
        reached[:, place] = flow
        if place < len(rungs) - 1:
            free = np.minimum(flow, max(0, NUM_UNJUDGED - begun))
            flow = free + generator.binomial(flow - free, shares[:, place])
    return reached


def _drawn_means(
    timings: Sequence[Timing], generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return draws of the mean seconds of a step and of a segment's rest, and a last step's extra.

    By the Bayesian bootstrap (Rubin, "The Bayesian bootstrap", 1981).
    """
    usual = [timing for timing in timings if not timing.is_last] or list(timings)
    weights = generator.dirichlet(np.ones(len(usual)), NUM_DRAWS)
    steps = np.array([timing.step_seconds for timing in usual])
    others = np.array([timing.other_seconds for timing in usual])
    return weights @ steps, weights @ others, SegmentCosts(timings).last_seconds


def _part_within_limits(
    spec: JobSpec,
    seconds: NDArray[np.float64],
    steps: NDArray[np.float64],
    spent_seconds: float,
    spent_steps: int,
    log: JobLog | None,
) -> NDArray[np.float64]:
    """Return the part of what is to come that limits in steps, minutes and GPU-hours leave."""
    budget, gpus = spec.budget, spec.workers.gpus or 1.0
    part = np.ones_like(seconds)
    if budget.steps is not None:
        part = np.minimum(part, (budget.steps - spent_steps) / np.maximum(steps, 1))
    if budget.gpu_hours is not None:
        left = 3600 * budget.gpu_hours / gpus - spent_seconds
        part = np.minimum(part, left / np.maximum(seconds, 1e-9))
    if budget.minutes is not None:
        left = 60 * budget.minutes - (0.0 if log is None else log.spent_seconds)
        part = np.minimum(part, left * spec.workers.num / np.maximum(seconds, 1e-9))
    return np.clip(part, 0.0, 1.0)


def _seconds(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def _minutes(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
