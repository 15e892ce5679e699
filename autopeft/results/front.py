"""The Pareto front: completed, feasible trials that no other one dominates.

Score is oriented so that more is better; costs are compared as logarithms, rounded to a
resolution (memory 1 %, parameters exact), else bytes of difference would put every trial on
the front.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopeft.records import TRAIN_MEMORY_BYTES, Costs, TrialState, TrialStatus

#: Relative resolution at which a cost is compared; 0 compares exactly.
RESOLUTION: Mapping[str, float] = {TRAIN_MEMORY_BYTES: 0.01}


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveScale:
    """How the objectives of one job are compared; fixed when the job starts.

    Attributes:
        metric: Name of the score's metric.
        cost_names: The costs among the objectives, 0 to 2 or more names of ``Costs``.
        score_reference: Score of the reference point (a predictor that knows nothing).
        score_ideal: Best score there can be, or the upper end used for normalising.
        cost_ideal: Per cost, the smallest in the space (natural units).
        cost_reference: Per cost, the largest in the space (natural units).
    """

    metric: str
    cost_names: tuple[str, ...]
    score_reference: float
    score_ideal: float
    cost_ideal: tuple[float, ...]
    cost_reference: tuple[float, ...]

    def costs(self, costs: Sequence[Costs]) -> NDArray[np.float64]:
        """Return ``n x m`` comparable costs: natural logarithms at the front's resolution.

        Two costs compare equal exactly where the front cannot tell them apart.
        """
        table = np.empty((len(costs), len(self.cost_names)))
        for column, name in enumerate(self.cost_names):
            logs = np.log([max(1, getattr(cost, name)) for cost in costs])
            resolution = RESOLUTION.get(name, 0.0)
            if resolution:
                width = math.log1p(resolution)
                logs = np.round(logs / width) * width
            table[:, column] = logs
        return table

    @property
    def cost_reference_point(self) -> NDArray[np.float64]:
        """The reference point's costs, ``m`` natural logarithms."""
        return np.log(np.maximum(1.0, self.cost_reference))

    @property
    def cost_ideal_point(self) -> NDArray[np.float64]:
        """The ideal point's costs, ``m`` natural logarithms."""
        return np.log(np.maximum(1.0, self.cost_ideal))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ObjectiveScale:
        """Read what :meth:`to_json` wrote."""
        values: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in data.items()
        }
        return cls(**values)


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

    Only completed trials count: a score at a lower rung is never compared with a final one.
    """
    done = [state for state in states if state.status is TrialStatus.COMPLETED]
    if not done:
        return []
    scores = np.array([state.score for state in done])
    mask = non_dominated(scores, scale.costs([state.trial.costs for state in done]))
    front = [state for state, keep in zip(done, mask, strict=True) if keep]
    return sorted(front, key=lambda state: (-state.score, state.trial.number))
