"""Asynchronous successive halving by non-dominated sorting, and the same in brackets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autopeft.proposers.base import CostFunction
from autopeft.proposers.outcomes import non_domination_ranks
from autopeft.records import TrialState, TrialStatus
from autopeft.results.front import ObjectiveScale
from autopeft.search_spaces.space import SearchSpace
from autopeft.stoppers.base import STOPPERS, Action, Decision, Stopper
from autopeft.stoppers.rungs import next_of, rungs_at
from autopeft.surrogates.curves import BROKEN
from autopeft.surrogates.measured_costs import MeasuredCosts

Array = NDArray[np.float64]

#: One trial in ETA goes on from each rung, to ETA times as many steps.
ETA = 2
#: Rungs before the last, as parts of the full steps.
RUNGS = (1 / 16, 1 / 8, 1 / 4, 1 / 2)


@STOPPERS.register("mo-asha")
class MoAshaStopper(Stopper):
    """Let the best half at each rung go on, by non-dominated sorting of score and costs.

    Source: Schmucker et al., "Multi-objective asynchronous successive halving", arXiv 2106.12639:
    trials of a rung are sorted by non-domination rank, within a rank by an epsilon-net, which
    spreads the first places over the front. A rung is judged whenever a trial arrives and
    whenever a worker is free (Li et al., MLSys 2020, algorithm 2); of fewer than ETA trials the
    best one goes on.
    """

    def __init__(
        self,
        space: SearchSpace,
        scale: ObjectiveScale,
        costs: CostFunction,
        *,
        max_steps: int,
        seed: int,
    ) -> None:
        super().__init__(space, scale, costs, max_steps=max_steps, seed=seed)
        self.rungs = rungs_at(max_steps, RUNGS)

    def next_rung(self, step: int) -> int:
        """Return the first rung beyond ``step``."""
        return next_of(self.rungs, step)

    def decide(self, state: TrialState, others: Sequence[TrialState]) -> Decision:
        """Continue or pause a trial at its rung."""
        rest = [s for s in others if s.trial.number != state.trial.number]
        if not self.judges(state):
            return Decision(
                action=Action.CONTINUE,
                reason=f"{self._where(state)}: the trials of its bracket are judged later",
            )
        if not np.isfinite(state.score):
            reason = f"no finite score at step {state.step}"
            return Decision(action=Action.PAUSE, reason=reason)
        places = self._places(state.step, [*rest, state])
        place = places[state.trial.number]
        action = Action.CONTINUE if place < num_going_on(len(places)) else Action.PAUSE
        return Decision(action=action, reason=self._reason(state, place, len(places)))

    def promote(self, states: Sequence[TrialState]) -> tuple[int, str] | None:
        """Return a paused trial that is now among the best of its rung, highest rungs first."""
        paused = [s for s in states if s.status is TrialStatus.PAUSED and np.isfinite(s.score)]
        for step in sorted({s.step for s in paused}, reverse=True):
            places = self._places(step, states)
            waiting = [s for s in paused if s.step == step]
            best = min(waiting, key=lambda s: places[s.trial.number])
            place = places[best.trial.number]
            if place < num_going_on(len(places)):
                return best.trial.number, self._reason(best, place, len(places))
        return None

    def judges(self, state: TrialState) -> bool:
        """Whether a trial is judged at the rung where it is."""
        return True

    def _places(self, step: int, states: Sequence[TrialState]) -> dict[int, int]:
        """Return the places of the trials measured at a rung, 0 for the best, by number."""
        crowd = sorted(
            (s for s in states if s.status not in BROKEN and np.isfinite(s.score_at(step))),
            key=lambda s: s.trial.number,
        )
        measured = MeasuredCosts(self.space, self.scale, states, max_steps=self.max_steps)
        costs = self.scale.costs(measured.of_states(crowd))
        order = epsilon_net_order(np.array([s.score_at(step) for s in crowd]), costs)
        return {crowd[i].trial.number: place for place, i in enumerate(order)}

    def _reason(self, state: TrialState, place: int, crowd: int) -> str:
        return (
            f"{self._where(state)}: place {place + 1} of the {crowd} measured there; the first "
            f"{num_going_on(crowd)} go on"
        )

    def _where(self, state: TrialState) -> str:
        return f"{self.scale.score_text(state)} at step {state.step}"


@STOPPERS.register("hyperband")
class HyperbandStopper(MoAshaStopper):
    """MO-ASHA in brackets: some trials are judged at every rung, some at later ones, some never.

    Source: Li et al., "Hyperband", JMLR 2018, in its asynchronous form: a trial's bracket is
    drawn from the seed and its number, with as many steps expected to go to each bracket. It
    hedges against rungs that say nothing, at the price of what they would have saved.
    """

    def judges(self, state: TrialState) -> bool:
        """Whether the rung is one of those of the trial's bracket."""
        first = self.bracket(state.trial.number)
        return state.step >= self.rungs[first]

    def bracket(self, number: int) -> int:
        """Return the place of the first rung at which a trial is judged."""
        shares = np.array([1 / self._expected_steps(first) for first in range(len(self.rungs))])
        generator = np.random.default_rng([self.seed, number])
        return int(generator.choice(len(shares), p=shares / shares.sum()))

    def _expected_steps(self, first: int) -> float:
        """Return the steps that a trial takes if one in ETA goes on from each rung."""
        steps, chance = float(self.rungs[first]), 1.0
        for before, rung in zip(self.rungs[first:], self.rungs[first + 1 :], strict=False):
            chance /= ETA
            steps += chance * (rung - before)
        return steps


def epsilon_net_order(scores: Array, costs: Array) -> list[int]:
    """Return ``n`` places, the best first: by non-domination rank, then spread over the rank.

    Args:
        scores: ``n`` scores, more is better.
        costs: ``n x m`` comparable costs, less is better.

    Within a rank the best score comes first, then always the point farthest from all before it.
    """
    ranks = non_domination_ranks(scores, costs)
    values = np.column_stack([scores, costs])
    width = np.ptp(values, axis=0)
    values = values / np.where(width > 0, width, 1.0)
    order: list[int] = []
    for rank in range(int(ranks.max(initial=-1)) + 1):
        members = np.flatnonzero(ranks == rank)
        points = values[members]
        distance = np.full(len(members), np.inf)
        place = int(np.argmax(scores[members]))
        for _ in members:
            order.append(int(members[place]))
            distance = np.minimum(distance, ((points - points[place]) ** 2).sum(axis=1))
            distance[place] = -np.inf
            place = int(np.argmax(distance))
    return order


def num_going_on(crowd: int) -> int:
    """Return how many of the trials measured at a rung go on."""
    return max(1, crowd // ETA)
