"""The Pareto front: completed, feasible trials that no other one dominates.

Score is oriented so that more is better; costs are compared as logarithms, rounded to a
resolution (memory 1 %, parameters exact), else bytes of difference would put every trial on
the front. A trial that breaks one of the job's constraints is not feasible.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopeft.records import (
    RETENTION,
    TRAIN_MEMORY_BYTES,
    TRAIN_SECONDS,
    Costs,
    TrialState,
    TrialStatus,
)
from autopeft.results.calibration import measured_bytes

#: Relative resolution at which a cost is compared; 0 compares exactly. Seconds differ by some
#: percent from run to run of the same training.
RESOLUTION: Mapping[str, float] = {TRAIN_MEMORY_BYTES: 0.01, TRAIN_SECONDS: 0.1, RETENTION: 0.1}
#: Nats a token below which a loss of retention is no longer told apart from none.
RETENTION_UNIT = 0.01
#: Ends of measured costs for the reference and the ideal point, where nothing is known of them
#: before the first training: a second to a day, no loss to one nat a token.
MEASURED_ENDS: Mapping[str, tuple[float, float]] = {
    TRAIN_SECONDS: (1.0, 86_400.0),
    RETENTION: (0.0, 1.0),
}


def comparable(name: str, values: Sequence[float | None]) -> NDArray[np.float64]:
    """Return ``n`` values of a cost as they are compared: at its resolution, on a log scale.

    Costs are at least 1 (seconds at least a thousandth), smaller ones compare as equal.
    Retention enters as ``log(1 + r / RETENTION_UNIT)``, and a gain of it as 0. What was not
    measured counts as the largest there is.
    """
    given = np.array([np.nan if value is None else float(value) for value in values])
    if name in MEASURED_ENDS:
        given = np.where(np.isfinite(given), given, MEASURED_ENDS[name][1])
    if name == RETENTION:
        logs = np.log1p(np.maximum(0.0, given) / RETENTION_UNIT)
    else:
        logs = np.log(np.maximum(1e-3 if name == TRAIN_SECONDS else 1.0, given))
    if resolution := RESOLUTION.get(name, 0.0):
        width = math.log1p(resolution)
        logs = np.round(logs / width) * width
    result: NDArray[np.float64] = logs
    return result


def number_text(value: float) -> str:
    """Write a number so that it can be compared by eye: ``8,000,000,000``, ``0.0513``."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """A limit that a trial must keep to be on the front.

    Attributes:
        name: A cost, or the job's metric.
        minimum: Smallest value allowed, None for no limit; natural units.
        maximum: Largest value allowed, None for no limit; natural units.
    """

    name: str
    minimum: float | None = None
    maximum: float | None = None

    def allows(self, value: float | None) -> bool:
        """Tell whether a value keeps the limit; one that is not known does."""
        if value is None or math.isnan(value):
            return True
        above = self.minimum is None or value >= self.minimum
        return above and (self.maximum is None or value <= self.maximum)

    def __str__(self) -> str:
        """Write it as ``a <= name <= b``."""
        low = "" if self.minimum is None else f"{number_text(self.minimum)} <= "
        high = "" if self.maximum is None else f" <= {number_text(self.maximum)}"
        return f"{low}{self.name}{high}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveScale:
    """How the objectives of one job are compared; fixed when the job starts.

    Attributes:
        metric: Name of the score's metric.
        cost_names: The costs among the objectives, 0 to 2 or more names of ``Costs``; known
            before training or measured by it.
        score_reference: Score of the reference point (a predictor that knows nothing).
        score_ideal: Best score there can be, or the upper end used for normalising.
        cost_ideal: Per cost, the smallest in the space (natural units).
        cost_reference: Per cost, the largest in the space (natural units).
        constraints: What a trial must keep to be on the front.
    """

    metric: str
    cost_names: tuple[str, ...]
    score_reference: float
    score_ideal: float
    cost_ideal: tuple[float, ...]
    cost_reference: tuple[float, ...]
    constraints: tuple[Constraint, ...] = ()

    def costs(self, costs: Sequence[Costs]) -> NDArray[np.float64]:
        """Return ``n x m`` comparable costs: natural logarithms at the front's resolution.

        Two costs compare equal exactly where the front cannot tell them apart.
        """
        table = np.empty((len(costs), len(self.cost_names)))
        for column, name in enumerate(self.cost_names):
            table[:, column] = comparable(name, [getattr(cost, name) for cost in costs])
        return table

    @property
    def measured_names(self) -> tuple[str, ...]:
        """The measured costs among objectives and constraints, each once."""
        named = (*self.cost_names, *(constraint.name for constraint in self.constraints))
        return tuple(name for name in MEASURED_ENDS if name in named)

    def allows(self, costs: Costs) -> bool:
        """Tell whether costs keep every constraint on costs; what is not known does."""
        return not self.limits_broken_by(costs)

    def limits_broken_by(self, costs: Costs) -> list[str]:
        """Return the names of the constraints on costs that these break."""
        return [
            constraint.name
            for constraint in self.constraints
            if constraint.name != self.metric
            and not constraint.allows(getattr(costs, constraint.name))
        ]

    def score_text(self, state: TrialState, format_spec: str = ".4g") -> str:
        """Return the latest score as the metric gives it, for people, e.g. ``loss 3.62``."""
        metrics = state.curve[-1].metrics if state.curve else {}
        return f"{self.metric} {metrics.get(self.metric, state.score):{format_spec}}"

    def broken_constraints(self, state: TrialState) -> list[str]:
        """Return the constraints a measured trial breaks, with its value, for people.

        Of memory the measurement counts, where there is one.
        """
        metrics = state.curve[-1].metrics if state.curve else {}
        broken = []
        for constraint in self.constraints:
            value: float | None
            if constraint.name == self.metric:
                value = metrics.get(constraint.name)
            elif constraint.name == TRAIN_MEMORY_BYTES:
                value = measured_bytes(state) or state.costs.train_memory_bytes
            else:
                value = getattr(state.costs, constraint.name)
            if value is not None and not constraint.allows(value):
                broken.append(f"{constraint.name} is {number_text(value)}, asked is {constraint}")
        return broken

    @property
    def cost_reference_point(self) -> NDArray[np.float64]:
        """The reference point's costs, ``m`` natural logarithms."""
        return self._point(self.cost_reference)

    @property
    def cost_ideal_point(self) -> NDArray[np.float64]:
        """The ideal point's costs, ``m`` natural logarithms."""
        return self._point(self.cost_ideal)

    def _point(self, values: Sequence[float]) -> NDArray[np.float64]:
        named = zip(self.cost_names, values, strict=True)
        return np.array([_unrounded(name, value) for name, value in named], dtype=np.float64)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        values = {name: getattr(self, name) for name in self.__slots__}
        values["constraints"] = [
            {name: getattr(constraint, name) for name in Constraint.__slots__}
            for constraint in self.constraints
        ]
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ObjectiveScale:
        """Read what :meth:`to_json` wrote."""
        values: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in data.items()
        }
        values["constraints"] = tuple(Constraint(**c) for c in data.get("constraints", ()))
        return cls(**values)


def _unrounded(name: str, value: float) -> float:
    """Return one value of a cost on its log scale, not rounded to its resolution."""
    if name == RETENTION:
        return math.log1p(max(0.0, value) / RETENTION_UNIT)
    return math.log(max(1e-3 if name == TRAIN_SECONDS else 1.0, value))


def dominates(
    score_a: float, costs_a: NDArray[np.float64], score_b: float, costs_b: NDArray[np.float64]
) -> bool:
    """Return whether a is at least as good as b everywhere and better somewhere."""
    no_worse = score_a >= score_b and bool(np.all(costs_a <= costs_b))
    return no_worse and (score_a > score_b or bool(np.any(costs_a < costs_b)))


def non_dominated(scores: NDArray[np.float64], costs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return a mask over ``n`` points: finite ones that no other point dominates.

    Args:
        scores: ``n`` scores, more is better; NaN and infinities are never on the front.
        costs: ``n x m`` costs, less is better.

    Of points equal in everything the first stays.
    """
    finite = np.isfinite(scores)
    mask = finite.copy()
    for i in np.flatnonzero(finite):
        no_worse = finite & (scores >= scores[i]) & np.all(costs <= costs[i], axis=1)
        better = (scores > scores[i]) | np.any(costs < costs[i], axis=1)
        twin = ~better & (np.arange(len(scores)) < i)
        mask[i] = not np.any(no_worse & (better | twin))
    return mask


def pareto_front(states: Sequence[TrialState], scale: ObjectiveScale) -> list[TrialState]:
    """Return the front of a job, best score first.

    Only completed trials count (a score at a lower rung is never compared with a final one),
    and of them those that break no constraint.
    """
    done = [
        state
        for state in states
        if state.status is TrialStatus.COMPLETED and not scale.broken_constraints(state)
    ]
    if not done:
        return []
    scores = np.array([state.score for state in done])
    mask = non_dominated(scores, scale.costs([state.costs for state in done]))
    front = [state for state, keep in zip(done, mask, strict=True) if keep]
    return sorted(front, key=lambda state: (-state.score, state.trial.number))
