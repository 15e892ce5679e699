"""The front of a job that goes on: one more trial costs a look at the front, not at the job."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from autopeft.records import TrialState, TrialStatus
from autopeft.results.front import ObjectiveScale


class LiveFront:
    """The same trials as :func:`~autopeft.results.front.pareto_front` finds, kept up to date.

    Completed trials never change, so a trial that is dominated once is dominated for good.

    Args:
        scale: How the objectives compare.
    """

    def __init__(self, scale: ObjectiveScale) -> None:
        self._scale = scale
        self._members: list[TrialState] = []
        self._scores = np.empty(0)
        self._costs = np.empty((0, len(scale.cost_names)))

    def add(self, state: TrialState) -> tuple[TrialState, ...]:
        """Take in a trial and return the members that it puts off the front.

        One that is not completed, breaks a constraint or is dominated changes nothing.
        """
        is_done = state.status is TrialStatus.COMPLETED and math.isfinite(state.score)
        if not is_done or state in self or self._scale.broken_constraints(state):
            return ()
        score: float = state.score
        costs: NDArray[np.float64] = self._scale.costs([state.costs])[0]
        no_worse = (self._scores >= score) & np.all(self._costs <= costs, axis=1)
        no_better = (self._scores <= score) & np.all(self._costs >= costs, axis=1)
        # Of trials equal in everything the first stays.
        twins = [self._members[i] for i in np.flatnonzero(no_worse & no_better)]
        is_first = all(state.trial.number < twin.trial.number for twin in twins)
        if np.any(no_worse & ~no_better) or not is_first:
            return ()
        dropped = tuple(self._members[i] for i in np.flatnonzero(no_better))
        kept = ~no_better
        self._members = [m for m, stays in zip(self._members, kept, strict=True) if stays]
        self._members.append(state)
        self._scores = np.append(self._scores[kept], score)
        self._costs = np.vstack([self._costs[kept], costs])
        return dropped

    def __contains__(self, state: object) -> bool:
        number = state.trial.number if isinstance(state, TrialState) else None
        return any(member.trial.number == number for member in self._members)

    def __len__(self) -> int:
        return len(self._members)

    @property
    def members(self) -> list[TrialState]:
        """The front, best score first."""
        return sorted(self._members, key=lambda state: (-state.score, state.trial.number))
