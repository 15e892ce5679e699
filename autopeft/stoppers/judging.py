"""How a trial is judged at a rung: only ever among trials that cost no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import qmc

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
#: The number of joint samples of final scores is two to this power.
LOG2_SAMPLES = 8


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
        """Return the probability that no trial that costs no more ends with a better score.

        Rivals are completed and running trials: paused and stopped ones may never get there. The
        second value is the rival most often ahead, None where there is none.
        """
        alive = (TrialStatus.COMPLETED, TrialStatus.RUNNING)
        no_dearer = np.all(self._costs <= self._costs_of(state), axis=1)
        rivals = [
            s
            for s, fits in zip(self._states, no_dearer, strict=True)
            if fits and s.status in alive and s.trial.number != state.trial.number
        ]
        if not rivals:
            return 1.0, None
        points = self._model.points_of([state, *rivals])
        mean, covariance = self._model.process.joint(points)
        factor = cholesky_with_jitter(covariance + 1e-9 * np.eye(len(points)))
        sobol = qmc.Sobol(len(points), scramble=True, rng=np.random.default_rng(self._seed))
        normal = ndtri(np.clip(sobol.random_base2(LOG2_SAMPLES), 1e-9, 1 - 1e-9))
        finals = mean + normal @ factor.T
        ahead = finals[:, 1:] > finals[:, :1]
        foremost = rivals[int(np.argmax(ahead.mean(axis=0)))]
        return float(1 - ahead.any(axis=1).mean()), foremost

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
    space: SearchSpace, costs: CostFunction, *, seed: int
) -> tuple[Array, list[Costs]]:
    """Return encodings and known costs of members of the space, the same for a seed."""
    members = space.sample(NUM_VIRTUAL, np.random.default_rng([seed, NUM_VIRTUAL]))
    return space.encode(members), costs(members)
