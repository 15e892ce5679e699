"""How a trial is judged at a rung: only ever among trials that cost no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from autopeft.proposers.base import CostFunction
from autopeft.records import Costs, TrialState, TrialStatus
from autopeft.results.front import ObjectiveScale
from autopeft.search_spaces.space import SearchSpace
from autopeft.surrogates.curves import BROKEN, CurveModel
from autopeft.surrogates.gaussian_process import Points, cholesky_with_jitter
from autopeft.surrogates.measured_costs import MeasuredCosts

Array = NDArray[np.float64]

#: Members of the space that stand in for comparators not yet observed.
NUM_VIRTUAL = 256
#: Joint samples of final scores, half of them the mirror images of the others.
NUM_SAMPLES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Where a trial stands at a rung among what costs no more.

    Attributes:
        num_measured: Other trials measured at this rung, whatever they cost.
        num_observed: Those of them that cost no more.
        num_better: Those of these that score better.
        num_virtual: Weight, in trials, of the space's members that cost no more.
        virtual_better: Expected share of those that score better here.
    """

    num_measured: int
    num_observed: int
    num_better: int
    num_virtual: float
    virtual_better: float

    @property
    def num_comparators(self) -> float:
        """Observed and virtual comparators together."""
        return self.num_observed + self.num_virtual

    @property
    def share_better(self) -> float:
        """Share of the comparators that score better; 0 where there is none."""
        if not self.num_comparators:
            return 0.0
        better = self.num_better + self.num_virtual * self.virtual_better
        return better / self.num_comparators


class Judge:
    """One look at a job: every trial's standing, from one fit of the surrogate.

    Args:
        model: The surrogate, fitted to every curve of the job.
        scale: How costs compare.
        states: Every trial of the job.
        virtual: ``(encodings, known costs)`` drawn once, see :func:`draw_virtual`.
        measured: Predicts the costs that only training tells.
        enough: Observed comparators from which on no virtual ones are needed.
        seed: Seeds the samples of final scores.
    """

    def __init__(
        self,
        model: CurveModel,
        scale: ObjectiveScale,
        states: Sequence[TrialState],
        virtual: tuple[Array, Sequence[Costs]],
        measured: MeasuredCosts,
        *,
        enough: int,
        seed: int,
    ) -> None:
        self._scale = scale
        self._states = [s for s in states if s.curve and s.status not in BROKEN]
        self._measured = measured
        self._costs = scale.costs(measured.of_states(self._states))
        self._virtual_X, known = virtual
        filled = measured.of_points(Points.untried(self._virtual_X), known)
        self._virtual_costs = scale.costs(filled)
        self._enough = enough
        self._seed = seed
        self._model = model

    def compare(self, state: TrialState) -> Comparison:
        """Return the standing of a trial at its latest rung."""
        mine = self._costs_of(state)
        others = [s.trial.number != state.trial.number for s in self._states]
        scores = np.array([s.score_at(state.step) for s in self._states])
        measured = np.isfinite(scores) & np.array(others, dtype=bool)
        no_dearer = measured & np.all(self._costs <= mine, axis=1)
        num_observed = int(no_dearer.sum())
        num_virtual, virtual_better = 0.0, 0.0
        if num_observed < self._enough:
            cheaper = np.all(self._virtual_costs <= mine, axis=1)
            num_virtual = float(min(self._enough - num_observed, cheaper.sum()))
            if num_virtual:
                virtual_better = self._virtual_share(self._virtual_X[cheaper], state)
        return Comparison(
            num_measured=int(measured.sum()),
            num_observed=num_observed,
            num_better=int((no_dearer & (scores > state.score)).sum()),
            num_virtual=num_virtual,
            virtual_better=virtual_better,
        )

    def chance_of_front(self, state: TrialState) -> tuple[float, TrialState | None]:
        """Return the chance of one trial, see :meth:`chances_of_front`."""
        return self.chances_of_front([state])[0]

    def chances_of_front(
        self, states: Sequence[TrialState]
    ) -> list[tuple[float, TrialState | None]]:
        """Return the probability that no trial that costs no more ends with a better score.

        Rivals are completed and running trials: paused and stopped ones may never get there. The
        second value is the rival most often ahead, None where there is none.

        Args:
            states: ``n`` measured trials; they are judged by the same joint samples.
        """
        alive = [
            (state, costs)
            for state, costs in zip(self._states, self._costs, strict=True)
            if state.status in (TrialStatus.COMPLETED, TrialStatus.RUNNING)
        ]
        asked = {state.trial.number for state in states}
        others = sorted(
            (state for state, _ in alive if state.trial.number not in asked),
            key=lambda state: state.trial.number,
        )
        finals = self._final_samples([*states, *others])
        column = {s.trial.number: i for i, s in enumerate([*states, *others])}
        found: list[tuple[float, TrialState | None]] = []
        for state in states:
            mine = self._costs_of(state)
            rivals = [
                rival
                for rival, costs in alive
                if rival.trial.number != state.trial.number and np.all(costs <= mine)
            ]
            if not rivals:
                found.append((1.0, None))
                continue
            places = [column[rival.trial.number] for rival in rivals]
            own = finals[:, column[state.trial.number]]
            ahead = finals[:, places] > own[:, None]
            foremost = rivals[int(np.argmax(ahead.mean(axis=0)))]
            found.append((float(1 - ahead.any(axis=1).mean()), foremost))
        return found

    def _final_samples(self, states: Sequence[TrialState]) -> Array:
        """Return joint samples of the final scores of ``n`` trials, in the model's units."""
        points = self._model.points_of(states)
        mean, covariance = self._model.process.joint(points)
        factor = cholesky_with_jitter(covariance + 1e-9 * np.eye(len(points)))
        generator = np.random.default_rng([self._seed, len(points)])
        half = generator.standard_normal((NUM_SAMPLES // 2, len(points)))
        result: Array = mean + np.vstack([half, -half]) @ factor.T
        return result

    def _virtual_share(self, X: Array, state: TrialState) -> float:
        """Return the posterior's share of configurations that score better at this rung."""
        process = self._model.process
        points = Points.untried(X, state.step / self._model.max_steps)
        mean, variance = process.predict(points)
        sd = np.sqrt(variance + process.hyperparameters.noise)
        mine = self._model.value(state.score, state.step)
        return float(ndtr((mean - mine) / sd).mean())

    def _costs_of(self, state: TrialState) -> Array:
        result: Array = self._scale.costs(self._measured.of_states([state]))[0]
        return result


def draw_virtual(
    space: SearchSpace, costs: CostFunction, *, seed: int, n: int = NUM_VIRTUAL
) -> tuple[Array, list[Costs]]:
    """Return encodings and known costs of ``n`` members of the space, the same for a seed."""
    members = space.sample(n, np.random.default_rng([seed, n]))
    return space.encode(members), costs(members)
