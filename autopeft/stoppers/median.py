"""Stop what is worse than half of its like."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autopeft.proposers.base import CostFunction
from autopeft.records import TrialState
from autopeft.results.front import ObjectiveScale
from autopeft.search_spaces.space import SearchSpace
from autopeft.stoppers.base import STOPPERS, Action, Decision, Stopper
from autopeft.stoppers.none import resume_first
from autopeft.stoppers.rungs import next_of, rungs_at
from autopeft.surrogates.curves import BROKEN
from autopeft.surrogates.measured_costs import MeasuredCosts

#: Rungs before the last, as parts of the full steps.
RUNGS = (1 / 8, 1 / 4, 1 / 2)
#: Trials that cost no more, measured at a rung, without which nothing is stopped there.
MIN_COMPARATORS = 3


@STOPPERS.register("median")
class MedianStopper(Stopper):
    """Stop a trial whose best score is below the median of the others' running means.

    Source: the median stopping rule of Golovin et al., "Google Vizier", KDD 2017, section 3.2.1.
    With costs among the objectives the others are those that cost no more: a dearer trial with a
    better score is no reason to stop a cheaper one.
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
        """Continue or stop a trial at its rung."""
        where = f"{self.scale.score_text(state)} at step {state.step}"
        if not np.isfinite(state.score):
            return Decision(action=Action.STOP, reason=f"no finite score at step {state.step}")
        measured = [
            other
            for other in others
            if other.trial.number != state.trial.number
            and other.status not in BROKEN
            and np.isfinite(other.score_at(state.step))
        ]
        known = MeasuredCosts(self.space, self.scale, [*others, state], max_steps=self.max_steps)
        costs = self.scale.costs(known.of_states([state, *measured]))
        fits = np.all(costs[1:] <= costs[0], axis=1)
        means = [
            np.mean([m.score for m in other.curve if m.step <= state.step])
            for other, is_fit in zip(measured, fits, strict=True)
            if is_fit
        ]
        if len(means) < MIN_COMPARATORS:
            return Decision(
                action=Action.CONTINUE,
                reason=f"{where}: {len(means)} trials that cost no more were measured there, "
                f"{MIN_COMPARATORS} are needed",
            )
        median = float(np.median(means))
        best = max(m.score for m in state.curve if np.isfinite(m.score))
        what = f"the median, {median:.4g}, of the running means of {len(means)} that cost no more"
        if best < median:
            return Decision(action=Action.STOP, reason=f"{where} is below {what}")
        return Decision(action=Action.CONTINUE, reason=f"{where} is not below {what}")

    def promote(self, states: Sequence[TrialState]) -> tuple[int, str] | None:
        """Return None where nothing is paused; otherwise resume the first paused trial."""
        return resume_first(states, "nothing waits under this stopper")
