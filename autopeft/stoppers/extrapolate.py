"""Go on while a trial may still end on the front, by a posterior of its final score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autopeft.proposers.base import CostFunction
from autopeft.records import TrialState, TrialStatus
from autopeft.results.front import ObjectiveScale
from autopeft.search_spaces.space import SearchSpace
from autopeft.stoppers.base import STOPPERS, Action, Decision, Stopper
from autopeft.stoppers.halving import is_the_baseline
from autopeft.stoppers.judging import Judge, draw_virtual
from autopeft.stoppers.rungs import next_of, rungs_at
from autopeft.surrogates.curves import CurveModel, has_measurements
from autopeft.surrogates.measured_costs import MeasuredCosts
from autopeft.surrogates.threads import one_blas_thread

#: Rungs before the last, as parts of the full steps. At 1/16 the posterior of final scores was far
#: too sure on banking77 (benchmarks/stopping); from 1/8 on it covers what it says.
RUNGS = (1 / 8, 1 / 4, 1 / 2)
#: Trials trained to the end before anyone is judged: how curves go on has to be seen first.
MIN_COMPLETED = 4
#: A trial goes on while the probability that it ends on the front is at least this.
MIN_CHANCE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chance:
    """A trial's chance of the front, and who is most often in its way."""

    chance: float
    rival: TrialState | None


@STOPPERS.register("extrapolate")
class ExtrapolateStopper(Stopper):
    """Pause a trial that is unlikely to end on the front; resume it when the odds change.

    The posterior over final scores is joint, over the curves of all trials of the job and their
    configurations (:class:`~autopeft.surrogates.curves.CurveModel`), as in freeze-thaw Bayesian
    optimisation (Swersky et al., arXiv 1406.3896), with rung lines learned from the job in place
    of an assumed exponential decay. A trial ends on the front if no completed or running trial
    that costs no more ends with a better score. The job's first plain LoRA is always trained to
    the end.
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
        where = f"{self.scale.score_text(state)} at step {state.step}"
        rest = [s for s in others if s.trial.number != state.trial.number]
        if is_the_baseline(state, rest):
            return Decision(
                action=Action.CONTINUE,
                reason=f"{where}: plain LoRA, the baseline, is trained to the end whatever its "
                "score",
            )
        if not np.isfinite(state.score):
            return Decision(action=Action.PAUSE, reason=f"no finite score at step {state.step}")
        completed = sum(s.status is TrialStatus.COMPLETED for s in rest)
        if completed < MIN_COMPLETED:
            return Decision(
                action=Action.CONTINUE,
                reason=f"{where}: too early to judge, which takes {MIN_COMPLETED} trials trained "
                f"to the end (so far {completed})",
            )
        (found,) = self._chances([*rest, state], [state])
        action = Action.CONTINUE if found.chance >= MIN_CHANCE else Action.PAUSE
        return Decision(action=action, reason=f"{where}: {_told(found)}")

    def promote(self, states: Sequence[TrialState]) -> tuple[int, str] | None:
        """Return the paused trial with the best chance of the front, if it is good enough."""
        paused = [
            s
            for s in sorted(states, key=lambda state: state.trial.number)
            if s.status is TrialStatus.PAUSED and np.isfinite(s.score)
        ]
        if not paused or not has_measurements(states):
            return None
        chances = self._chances(states, paused)
        found, state = max(
            zip(chances, paused, strict=True),
            key=lambda pair: (pair[0].chance, -pair[1].trial.number),
        )
        if found.chance < MIN_CHANCE:
            return None
        return state.trial.number, f"at step {state.step}: {_told(found)}"

    def _chances(self, states: Sequence[TrialState], judged: Sequence[TrialState]) -> list[_Chance]:
        with one_blas_thread():
            judge = Judge(
                CurveModel(self.space, states, max_steps=self.max_steps),
                self.scale,
                states,
                draw_virtual(self.space, self.costs, seed=self.seed, n=1),
                MeasuredCosts(self.space, self.scale, states, max_steps=self.max_steps),
                enough=0,
                seed=self.seed,
            )
            found = judge.chances_of_front(judged)
        return [_Chance(chance=chance, rival=rival) for chance, rival in found]


def _told(found: _Chance) -> str:
    text = f"{found.chance:.1%} chance of ending on the front, {MIN_CHANCE:.0%} needed"
    if found.rival is not None:
        text += f"; trial {found.rival.trial.number} costs no more and is most often ahead"
    return text
