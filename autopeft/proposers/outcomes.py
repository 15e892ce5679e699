"""A job's trials in the words of optimisers that know scores and costs, but neither curves nor us.

They are told one score a trial: the final one, or of a trial that was stopped or waits the last
one it had, which is what they would be told by any tool that stops trials. A trial that broke
counts as the worst score so far, so that such a place is not tried again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autopeft.proposers.base import Proposer
from autopeft.records import TrialState, TrialStatus
from autopeft.search_spaces.configuration import Configuration
from autopeft.surrogates.measured_costs import MeasuredCosts

Array = NDArray[np.float64]

#: Trials of which nothing more is known yet.
_PENDING = (TrialStatus.PROPOSED, TrialStatus.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """What came of a job's trials, one row for each that has ended or waits.

    Attributes:
        configurations: ``n`` of them.
        numbers: ``n`` trial numbers.
        scores: ``n`` scores, more is better.
        costs: ``n x m`` comparable costs (natural logarithms), less is better.
        is_complete: ``n`` flags: trained to the end.
        steps: ``n`` steps at which the scores were measured; the last for what broke.
        pending: Configurations that are being trained.
    """

    configurations: tuple[Configuration, ...]
    numbers: NDArray[np.int64]
    scores: Array
    costs: Array
    is_complete: NDArray[np.bool_]
    steps: NDArray[np.int64]
    pending: tuple[Configuration, ...]

    @classmethod
    def of(cls, proposer: Proposer, states: Sequence[TrialState]) -> Outcomes:
        """Collect them from every trial of a job, by number.

        Trials that failed for reasons of the machine say nothing and are left out.
        """
        pending = tuple(s.trial.configuration for s in states if s.status in _PENDING)
        told = [s for s in states if s.status not in (*_PENDING, TrialStatus.FAILED)]
        scores = np.array([_score(state) for state in told], dtype=np.float64)
        finite = scores[np.isfinite(scores)]
        worst = float(finite.min()) if len(finite) else proposer.scale.score_reference
        measured = MeasuredCosts(
            proposer.space, proposer.scale, states, max_steps=proposer.max_steps
        )
        costs = proposer.scale.costs(measured.of_states(told))
        return cls(
            configurations=tuple(state.trial.configuration for state in told),
            numbers=np.array([state.trial.number for state in told], dtype=np.int64),
            scores=np.where(np.isfinite(scores), scores, worst),
            costs=costs,
            is_complete=np.array([s.status is TrialStatus.COMPLETED for s in told], dtype=bool),
            steps=np.array(
                [s.step if np.isfinite(_score(s)) else proposer.max_steps for s in told],
                dtype=np.int64,
            ),
            pending=pending,
        )

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.configurations)

    def rows(self, index: NDArray[np.intp]) -> Outcomes:
        """Return some of the rows, with all that is pending."""
        return Outcomes(
            configurations=tuple(self.configurations[i] for i in index),
            numbers=self.numbers[index],
            scores=self.scores[index],
            costs=self.costs[index],
            is_complete=self.is_complete[index],
            steps=self.steps[index],
            pending=self.pending,
        )


def _score(state: TrialState) -> float:
    """Return the last finite score of a trial; NaN where it broke or has none."""
    if state.status in (TrialStatus.DIVERGED, TrialStatus.INFEASIBLE):
        return float("nan")
    return state.score if np.isfinite(state.score) else float("nan")


def non_domination_ranks(scores: Array, costs: Array) -> NDArray[np.int64]:
    """Return ``n`` ranks: 0 for the front, 1 for the front of the rest, and so on.

    Args:
        scores: ``n`` finite scores, more is better.
        costs: ``n x m`` costs, less is better.

    Source: non-dominated sorting of NSGA-II (Deb et al., 2002). Points that are equal in
    everything share a rank.
    """
    values = np.column_stack([scores, -costs]) if costs.size else scores[:, None]
    no_worse = np.all(values[:, None, :] >= values[None, :, :], axis=2)
    dominates = no_worse & ~no_worse.T
    ranks = np.zeros(len(values), dtype=np.int64)
    left = np.ones(len(values), dtype=bool)
    rank = 0
    while left.any():
        dominated = dominates[left].any(axis=0)
        front = left & ~dominated
        ranks[front] = rank
        left &= dominated
        rank += 1
    return ranks


def crowding_distances(values: Array) -> Array:
    """Return ``n`` crowding distances of ``n x k`` values (Deb et al., NSGA-II, 2002).

    Infinite at the ends of each objective; otherwise the sum over objectives of the distance
    between both neighbours, as a part of the objective's range.
    """
    n, k = values.shape
    distances = np.zeros(n)
    for column in range(k):
        order = np.argsort(values[:, column], kind="stable")
        ordered = values[order, column]
        distances[order[[0, -1]]] = np.inf
        if (width := ordered[-1] - ordered[0]) > 0 and n > 2:
            distances[order[1:-1]] += (ordered[2:] - ordered[:-2]) / width
    return distances
