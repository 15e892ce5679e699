"""Whether the cheap score ranks trials as the dear one does: rank correlations, with their doubt.

A language model's trials are compared by their loss at every rung, and what the user wants are
good answers. How well the one stands for the other is reported, never assumed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopeft.naming import counted
from autopeft.records import TrialState
from autopeft.results.job_log import JobLog

#: With fewer pairs a rank correlation says nothing.
MIN_PAIRS = 5
NUM_RESAMPLES = 2000
#: Share of the resamples inside the interval.
COVERAGE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class RankCorrelation:
    """How alike two rankings of the same things are; 1 is equal, -1 reversed.

    Attributes:
        num_pairs: Things that have both numbers.
        kendall: Kendall's tau-b; NaN where there are too few, or one number never changes.
        spearman: Spearman's rho, likewise.
        interval: Lower and upper end of ``COVERAGE`` of the tau of resamples with replacement
            (percentile bootstrap); NaN as for ``kendall``.
        reason: Why there is no number; "" where there is one.
    """

    num_pairs: int
    kendall: float
    spearman: float
    interval: tuple[float, float]
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON; NaN as None."""
        none_for_nan = [None if math.isnan(value) else value for value in self.interval]
        return {
            "num_trials": self.num_pairs,
            "kendall": None if math.isnan(self.kendall) else self.kendall,
            "spearman": None if math.isnan(self.spearman) else self.spearman,
            "interval": none_for_nan,
            "reason": self.reason or None,
        }


def rank_correlation(
    one: Sequence[float], other: Sequence[float], *, seed: int = 0
) -> RankCorrelation:
    """Return how alike two lists of ``n`` numbers rank the same things.

    Pairs with a number that is not finite are left out. Ties count as in tau-b (M. G. Kendall,
    "The treatment of ties in ranking problems", Biometrika 33, 1945).

    Args:
        one: ``n`` numbers.
        other: ``n`` numbers.
        seed: Of the resamples.
    """
    x, y = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    if len(x) < MIN_PAIRS:
        return _no_number(len(x), f"too few: {MIN_PAIRS} trials with both are needed")
    if np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
        return _no_number(len(x), "one of them is the same for every trial")
    signs_x, signs_y = (np.sign(v[:, None] - v[None, :]) for v in (x, y))
    generator = np.random.default_rng(seed)
    taus = []
    for _ in range(NUM_RESAMPLES):
        drawn = generator.integers(len(x), size=len(x))
        square = np.ix_(drawn, drawn)
        taus.append(_tau(signs_x[square], signs_y[square]))
    known = np.array(taus)[np.isfinite(taus)]
    tail = (1.0 - COVERAGE) / 2.0
    low, high = np.quantile(known, [tail, 1.0 - tail])
    return RankCorrelation(
        num_pairs=len(x),
        kendall=_tau(signs_x, signs_y),
        spearman=float(np.corrcoef(_ranks(x), _ranks(y))[0, 1]),
        interval=(float(low), float(high)),
    )


def answer_metric(log: JobLog) -> str | None:
    """Return the name of a job's metric of generated answers, None where it has none."""
    named = (log.spec or {}).get("metric")
    return None if named is None else str(named).rpartition(":")[2]


def score_and_answers(log: JobLog) -> RankCorrelation | None:
    """Return how the score ranks trials beside the metric of answers; None without one.

    Taken over the trials that have both at their latest measurement. The score is oriented
    upward, so that a metric where more is better agrees at 1.
    """
    name = answer_metric(log)
    if name is None:
        return None
    scored = [state for state in log.trials if state.curve and name in state.curve[-1].metrics]
    return rank_correlation(
        [state.score for state in scored], [_answers(state, name) for state in scored]
    )


def correlation_text(log: JobLog) -> str | None:
    """Return what :func:`score_and_answers` found, in one line for people."""
    found, name = score_and_answers(log), answer_metric(log)
    if found is None or log.scale is None:
        return None
    what = f"Ranks by {log.scale.metric} and by {name}, {counted(found.num_pairs, 'trial')}: "
    if found.reason:
        return f"{what}no correlation, {found.reason}."
    low, high = found.interval
    return (
        f"{what}Kendall's tau {found.kendall:+.2f} ({COVERAGE:.0%} of resamples {low:+.2f} to "
        f"{high:+.2f}), Spearman's rho {found.spearman:+.2f}."
    )


def _answers(state: TrialState, name: str) -> float:
    return float(state.curve[-1].metrics[name])


def _tau(signs_x: NDArray[np.float64], signs_y: NDArray[np.float64]) -> float:
    scale = math.sqrt(float((signs_x**2).sum()) * float((signs_y**2).sum()))
    return float((signs_x * signs_y).sum()) / scale if scale else math.nan


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ranks from 0; equal values share the mean of theirs."""
    below = (values[None, :] < values[:, None]).sum(axis=1)
    equal = (values[None, :] == values[:, None]).sum(axis=1)
    ranks: NDArray[np.float64] = below + (equal - 1) / 2.0
    return ranks


def _no_number(num_pairs: int, reason: str) -> RankCorrelation:
    nan = math.nan
    return RankCorrelation(
        num_pairs=num_pairs, kendall=nan, spearman=nan, interval=(nan, nan), reason=reason
    )
