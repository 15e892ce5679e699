"""Asynchronous successive halving that is fair to small models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autopeft.proposers.base import CostFunction
from autopeft.records import BASELINE_ORIGINS, Costs, TrialState, TrialStatus
from autopeft.results.front import ObjectiveScale
from autopeft.search_spaces.space import SearchSpace
from autopeft.stoppers.base import STOPPERS, Action, Decision, Stopper
from autopeft.stoppers.judging import Array, Comparison, Judge, draw_virtual
from autopeft.stoppers.rungs import next_of, rungs_at
from autopeft.surrogates.curves import BROKEN, CurveModel, has_measurements
from autopeft.surrogates.measured_costs import MeasuredCosts
from autopeft.surrogates.threads import one_blas_thread

#: At each rung a trial must be among the best 1 / ETA of its comparators.
ETA = 2
#: The rungs before the last, as parts of the full steps. On builtin:docstrings (13 configurations,
#: 48 steps of MiniLM, cosine schedule) the rank correlation of a rung's score with the final one
#: was 0.16 at 1/6, 0.68 at 1/4, 0.74 at 1/3 and 0.82 at 1/2 (Kendall's tau).
RUNGS = (1 / 4, 1 / 2)
#: Trials that must have been measured at a rung before anyone is judged there.
MIN_MEASURED = 3
#: Comparators that make a judgement; where fewer were observed, the surrogate supplies the rest.
ENOUGH_COMPARATORS = 6
#: A trial whose probability of reaching the front is below this waits. Chosen with RUNGS and ETA
#: on a synthetic landscape, not on trained models.
MIN_CHANCE = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a trial goes on, how urgently, and why in words."""

    goes_on: bool
    chance: float
    reason: str


@STOPPERS.register("halving")
class HalvingStopper(Stopper):
    """Pause what will not reach the front, judged among trials that cost no more.

    A cheaper trial with a better score dominates; a dearer one never does. So at a rung (Li et
    al., "A system for massively parallel hyperparameter tuning", MLSys 2020, algorithm 2) a
    trial is ranked only among the trials measured there whose every cost, at the front's
    resolution, is at most its own. Where fewer than enough of those exist, members of the space
    that cost no more stand in, with the surrogate's posterior at that rung for a score. It goes
    on if at most 1 / eta of its comparators are better and it still has a chance to end on the
    front against the completed and running trials that cost no more, by the joint posterior over
    final scores. The cheapest trials have no comparators and always go on.

    Deviations from the paper: a rung is judged at once on arrival and its paused trials again
    whenever a worker is free; the first few trials at a rung go on unjudged, since neither they
    nor the surrogate have anything to be compared with, and their complete curves are what
    judges the others; the first plain LoRA of a job goes on unjudged too, since LoRA starts
    slowly and every winner must be compared with it; a trial is paused, never stopped, because a
    later, worse comparator can make it worth resuming.
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
        self._virtual: tuple[Array, list[Costs]] | None = None
        self._model: tuple[object, CurveModel] | None = None

    def next_rung(self, step: int) -> int:
        """Return the first rung beyond ``step``."""
        return next_of(self.rungs, step)

    def decide(self, state: TrialState, others: Sequence[TrialState]) -> Decision:
        """Continue or pause a trial at its rung."""
        rest = [s for s in others if s.trial.number != state.trial.number]
        if is_the_baseline(state, rest):
            return Decision(
                action=Action.CONTINUE,
                reason=f"{self._where(state)}: plain LoRA, the baseline, "
                "is trained to the end whatever its score",
            )
        with one_blas_thread():
            verdict = self._judge([*rest, state], [state])[0]
        action = Action.CONTINUE if verdict.goes_on else Action.PAUSE
        return Decision(action=action, reason=verdict.reason)

    def promote(self, states: Sequence[TrialState]) -> tuple[int, str] | None:
        """Return the paused trial that now goes on and has the best chance of the front."""
        paused = [s for s in states if s.status is TrialStatus.PAUSED]
        if not paused:
            return None
        paused.sort(key=lambda state: state.trial.number)
        with one_blas_thread():
            verdicts = self._judge(states, paused)
        ready = [(v, s) for v, s in zip(verdicts, paused, strict=True) if v.goes_on]
        if not ready:
            return None
        verdict, state = max(ready, key=lambda pair: (pair[0].chance, -pair[1].trial.number))
        return state.trial.number, verdict.reason

    def _judge(self, states: Sequence[TrialState], judged: Sequence[TrialState]) -> list[Verdict]:
        if not has_measurements(states):
            return [self._unjudged(state, 0) for state in judged]
        if self._virtual is None:
            self._virtual = draw_virtual(self.space, self.costs, seed=self.seed)
        judge = Judge(
            self._fitted(states),
            self.scale,
            states,
            self._virtual,
            MeasuredCosts(self.space, self.scale, states, max_steps=self.max_steps),
            enough=ENOUGH_COMPARATORS,
            seed=self.seed,
        )
        return [self._verdict(judge, state) for state in judged]

    def _fitted(self, states: Sequence[TrialState]) -> CurveModel:
        """Return the surrogate of these curves; the last one is kept for the next question."""
        curves = tuple(
            (s.trial.number, s.status in BROKEN, *((m.step, m.score) for m in s.curve))
            for s in sorted(states, key=lambda s: s.trial.number)
            if s.curve
        )
        if self._model is None or self._model[0] != curves:
            model = CurveModel(self.space, states, max_steps=self.max_steps)
            self._model = (curves, model)
        return self._model[1]

    def _verdict(self, judge: Judge, state: TrialState) -> Verdict:
        if not np.isfinite(state.score):
            return Verdict(
                goes_on=False, chance=0.0, reason=f"no finite score at step {state.step}"
            )
        standing = judge.compare(state)
        if standing.num_measured < MIN_MEASURED:
            return self._unjudged(state, standing.num_measured)
        where = self._where(state)
        if standing.num_comparators < 1:
            return Verdict(goes_on=True, chance=1.0, reason=f"{where}: no other one is as cheap")
        chance, rival = judge.chance_of_front(state)
        share = f"{where}: {standing.share_better:.0%} of those that cost no more score better"
        share += _among(standing)
        if standing.share_better > 1 / ETA:
            return Verdict(
                goes_on=False, chance=chance, reason=f"{share}; at most {1 / ETA:.0%} may"
            )
        if rival is not None and chance < MIN_CHANCE:
            return Verdict(
                goes_on=False,
                chance=chance,
                reason=f"{where}: {chance:.1%} chance of reaching the front, {MIN_CHANCE:.0%} "
                f"needed; trial {rival.trial.number} costs no more and is ahead",
            )
        return Verdict(
            goes_on=True,
            chance=chance,
            reason=f"{share} and at most {1 / ETA:.0%} may; {chance:.1%} chance of reaching the "
            "front",
        )

    def _unjudged(self, state: TrialState, num_measured: int) -> Verdict:
        return Verdict(
            goes_on=True,
            chance=1.0,
            reason=f"{self._where(state)}: too early to judge, which takes {MIN_MEASURED} other "
            f"trials measured at this step (so far {num_measured})",
        )

    def _where(self, state: TrialState) -> str:
        """Say what was measured where, as the metric gives it."""
        return f"{self.scale.score_text(state)} at step {state.step}"


def is_the_baseline(state: TrialState, others: Sequence[TrialState]) -> bool:
    """Whether a trial is the job's first plain LoRA on all linear layers."""
    if state.trial.origin not in BASELINE_ORIGINS or not np.isfinite(state.score):
        return False
    return not any(
        other.trial.origin in BASELINE_ORIGINS and other.trial.number < state.trial.number
        for other in others
    )


def _among(standing: Comparison) -> str:
    """Say in words whom a trial was compared with."""
    kinds = (
        (standing.num_observed, "measured"),
        (round(standing.num_virtual), "untried, as predicted"),
    )
    return f" ({' and '.join(f'{number} {kind}' for number, kind in kinds if number)})"
