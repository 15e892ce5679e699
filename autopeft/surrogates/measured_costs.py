"""Costs that only training tells, predicted for configurations that were not trained yet.

Each measured cost (seconds, retention) that is an objective or under a constraint gets a
Gaussian process of its own over the encoded configurations, on the scale it is compared on.
As an objective it is drawn from its posterior, so that a gain with a closed form given the costs
is averaged over them; under a constraint its posterior gives the probability that the limit is
kept, by which a candidate's gain is weighted (Gardner et al., "Bayesian optimization with
inequality constraints", ICML 2014, equation 4). Deviations from a joint treatment of several
uncertain objectives: score and costs are independent given the configuration, and in one draw a
cost deviates by as many standard deviations for all configurations.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from autopeft.records import RETENTION, TRAIN_SECONDS, Costs, TrialState
from autopeft.results.front import MEASURED_ENDS, RETENTION_UNIT, ObjectiveScale, comparable
from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.space import SearchSpace
from autopeft.surrogates.curves import BROKEN
from autopeft.surrogates.gaussian_process import GaussianProcess, Points

Array = NDArray[np.float64]

#: Trials measured before a process is fitted; until then their mean is the prediction.
MIN_TO_FIT = 4


class MeasuredCosts:
    """Fill in measured costs; where a job has none of them, everything passes through.

    Args:
        space: Encodes configurations.
        scale: The objectives and constraints.
        states: Every trial of the job.
        max_steps: Steps of a trial trained to the end.
    """

    def __init__(
        self,
        space: SearchSpace,
        scale: ObjectiveScale,
        states: Sequence[TrialState],
        *,
        max_steps: int,
    ) -> None:
        self._space = space
        self._scale = scale
        self._max_steps = max_steps
        self._models = {name: self._fit(name, states) for name in scale.measured_names}

    def on(self, scale: ObjectiveScale) -> MeasuredCosts:
        """Return the same predictions on a scale with some of the objectives alone."""
        other = copy(self)
        other._scale = scale
        return other

    def of_candidates(
        self, configurations: Sequence[Configuration], costs: Sequence[Costs]
    ) -> list[Costs]:
        """Return the costs of ``n`` untried configurations, the measured ones predicted."""
        if not self._models or not configurations:
            return list(costs)
        return self.of_points(Points.untried(self._space.encode(configurations)), costs)

    def of_points(self, points: Points, costs: Sequence[Costs]) -> list[Costs]:
        """Return the same for ``n`` encoded configurations."""
        filled = list(costs)
        for name, model in self._models.items():
            mean, _ = model.predict(points)
            filled = [
                _with(cost, name, _natural(name, float(value)))
                for cost, value in zip(filled, mean, strict=True)
            ]
        return filled

    def sampled(self, points: Points, costs: Sequence[Costs], normals: Array) -> Array:
        """Return comparable costs, the measured objectives drawn from their posteriors.

        Args:
            points: ``n`` configurations.
            costs: What is known of each; a measured cost that is known is not drawn.
            normals: ``s x m`` standard normal draws, one for each cost and sample.

        Returns:
            ``s x n x m`` logarithms; ``1 x n x m`` where nothing has to be drawn.
        """
        known = self._scale.costs(self.of_points(points, costs) if len(points) else costs)
        found: Array = known[None]
        for column, name in enumerate(self._scale.cost_names):
            if name not in self._models or not len(points):
                continue
            mean, variance = self._models[name].predict(points)
            is_drawn = np.array([getattr(cost, name) is None for cost in costs])
            if not is_drawn.any():
                continue
            if len(found) == 1:
                found = np.repeat(found, len(normals), axis=0)
            drawn = mean + np.sqrt(variance) * normals[:, column, None]
            measured = comparable(name, [getattr(cost, name) or 0.0 for cost in costs])
            found[:, :, column] = np.where(is_drawn, drawn, measured)
        return found

    def known(self, states: Sequence[TrialState]) -> list[Costs]:
        """Return what is known of the costs of ``n`` trials at full length."""
        return [self._at_full_length(state) for state in states]

    def of_states(self, states: Sequence[TrialState]) -> list[Costs]:
        """Return the costs of ``n`` trials at full length: measured, or else predicted."""
        known = self.known(states)
        if not self._models or not states:
            return known
        predicted = self.of_candidates([s.trial.configuration for s in states], known)
        return [
            replace(guess, **_measured(cost)) for cost, guess in zip(known, predicted, strict=True)
        ]

    def log_feasible(self, points: Points) -> Array:
        """Return ``n`` log probabilities that the limits on measured costs are kept."""
        total = np.zeros(len(points))
        for constraint in self._scale.constraints:
            if constraint.name not in self._models:
                continue
            mean, variance = self._models[constraint.name].predict(points)
            sd = np.sqrt(variance)
            if constraint.maximum is not None:
                limit = comparable(constraint.name, [constraint.maximum])[0]
                total += log_ndtr((limit - mean) / sd)
            if constraint.minimum is not None:
                limit = comparable(constraint.name, [constraint.minimum])[0]
                total += log_ndtr((mean - limit) / sd)
        return total

    def _fit(self, name: str, states: Sequence[TrialState]) -> _CostModel:
        rows = []
        for state in sorted(states, key=lambda state: state.trial.number):
            value = getattr(self._at_full_length(state), name)
            if state.status not in BROKEN and value is not None and np.isfinite(value):
                rows.append((state.trial, value))
        values = comparable(name, [value for _, value in rows])
        if len(rows) < MIN_TO_FIT or np.ptp(values) < 1e-9:
            middle = comparable(name, [sum(MEASURED_ENDS[name]) / 2])[0]
            centre = float(values.mean()) if len(rows) else float(middle)
            spread = max(float(values.std()), 0.5) if len(rows) else 2.0
            return _CostModel(centre=centre, spread=spread, process=None)
        centre, spread = float(values.mean()), float(values.std())
        X = self._space.encode([trial.configuration for trial, _ in rows])
        numbers = np.array([trial.number for trial, _ in rows], dtype=np.int64)
        points = Points(X=X, progress=np.ones(len(rows)), trials=numbers)
        process = GaussianProcess.fit(points, (values - centre) / spread)
        return _CostModel(centre=centre, spread=spread, process=process)

    def _at_full_length(self, state: TrialState) -> Costs:
        """Carry the seconds of an unfinished trial on to its last step."""
        costs = state.costs
        if costs.train_seconds is None or not 0 < state.step < self._max_steps:
            return costs
        return replace(costs, train_seconds=costs.train_seconds * self._max_steps / state.step)


@dataclass(frozen=True, slots=True, kw_only=True)
class _CostModel:
    """A posterior over one cost on its comparable scale; constant without a process."""

    centre: float
    spread: float
    process: GaussianProcess | None

    def predict(self, points: Points) -> tuple[Array, Array]:
        """Return ``n`` means and variances."""
        if self.process is None:
            n = len(points)
            return np.full(n, self.centre), np.full(n, self.spread**2)
        mean, variance = self.process.predict(points)
        return self.centre + self.spread * mean, self.spread**2 * variance


def _measured(costs: Costs) -> dict[str, Any]:
    values = {name: getattr(costs, name) for name in MEASURED_ENDS}
    return {name: value for name, value in values.items() if value is not None}


def _with(costs: Costs, name: str, value: float) -> Costs:
    return (
        replace(costs, retention=value)
        if name == RETENTION
        else replace(costs, train_seconds=value)
    )


def _natural(name: str, comparable_value: float) -> float:
    """Return the value whose comparable one is given."""
    if name == RETENTION:
        return float(np.expm1(comparable_value) * RETENTION_UNIT)
    assert name == TRAIN_SECONDS, name
    return float(np.exp(comparable_value))
