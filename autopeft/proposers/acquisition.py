"""What a candidate is worth: noisy expected hypervolume improvement, if it trains at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve
from scipy.special import ndtri
from scipy.stats import qmc

from autopeft.proposers.expected_hypervolume_improvement import (
    LevelPartition,
    log_noisy_expected_hypervolume_improvement,
)
from autopeft.records import Costs, TrialState, TrialStatus
from autopeft.results.front import ObjectiveScale, non_dominated
from autopeft.surrogates.curves import CurveModel
from autopeft.surrogates.gaussian_process import Points, cholesky_with_jitter
from autopeft.surrogates.measured_costs import MeasuredCosts
from autopeft.surrogates.trial_seconds import TrialSeconds

Array = NDArray[np.float64]

#: The number of sampled fronts is two to this power.
LOG2_SAMPLES = 4
#: Most completed trials whose scores are sampled jointly.
MAX_FRONT = 48
#: The reference point lies beyond the largest cost by this part of the range of log costs, so
#: that the largest configurations, too, gain volume.
COST_MARGIN = 0.1
#: Part of all configurations assumed to fail before any did, and the weight of that guess in
#: trials.
PRIOR_FAILURE, PRIOR_WEIGHT = 0.02, 1.0


class Acquisition:
    """The logarithm of a candidate's expected gain, given a model of the scores.

    Args:
        model: Posterior over final scores, fitted to all curves.
        states: Every trial of the job.
        scale: How costs compare, the constraints, and the reference point.
        measured: Predicts the costs that only training tells.
        generator: Draws the scrambling of the sampled fronts.
        seconds: By whose expected seconds a gain is divided; None for the gain as it is.
        spread: What the standard deviations of candidates are multiplied by: above 1 to
            explore.

    Completed trials may be on the front; proposed, running and paused ones may come to be: their
    final scores are sampled jointly. Stopped trials inform the model alone.
    """

    def __init__(
        self,
        model: CurveModel,
        states: Sequence[TrialState],
        scale: ObjectiveScale,
        measured: MeasuredCosts,
        generator: np.random.Generator,
        *,
        seconds: TrialSeconds | None = None,
        spread: float = 1.0,
    ) -> None:
        self.model = model
        self.scale = scale
        self.measured = measured
        self._seconds = seconds
        self._spread = spread
        self.risk = FailureRisk(model, states)
        completed = [
            s
            for s in states
            if s.status is TrialStatus.COMPLETED and not scale.broken_constraints(s)
        ]
        pending = [s for s in states if not s.status.is_final]
        self._anchor_states = _contenders(model, completed, scale, measured) + pending
        self._anchors = model.points_of(self._anchor_states)
        self._partitions: list[LevelPartition] = []
        self._sample_fronts(generator)

    def __call__(self, points: Points, costs: Sequence[Costs]) -> Array:
        """Return the log gain of ``n`` candidates at full progress; ``-inf`` for no gain.

        Limits on known costs are not looked at.

        Args:
            points: The candidates.
            costs: Their known costs; the measured ones are filled in where a job has some.
        """
        log_gain = self.log_gain(points, costs)
        result: Array = (
            log_gain + np.log1p(-self.risk(points, costs)) + self.measured.log_feasible(points)
        )
        if self._seconds is not None:
            result = result - self._seconds.log(points.X)
        return result

    def log_gain(self, points: Points, costs: Sequence[Costs]) -> Array:
        """Return the log of the expected gain in hypervolume of ``n`` candidates that train."""
        mean, variance, covariance = self.model.process.predict_with_covariance(
            points, self._anchors
        )
        sd = np.sqrt(variance)
        means = np.repeat(mean[:, None], len(self._partitions), axis=1)
        if len(self._anchors):
            gain = cho_solve((self._factor, True), covariance.T)
            means += (self._deviations @ gain).T
            explained = np.einsum("ij,ji->i", covariance, gain)
            sd = np.sqrt(np.maximum(variance - explained, 1e-12))
        return log_noisy_expected_hypervolume_improvement(
            means,
            self._spread * sd,
            self.measured.sampled(points, costs, self._normals),
            self._partitions,
        )

    def largest_share(self, points: Points, costs: Sequence[Costs]) -> float:
        """Return the largest expected gain of candidates over the hypervolume of the front.

        In the scores' own units, as far as they lie where the model's are linear in them; 1
        where there is no front yet.
        """
        done = [s for s in self._anchor_states if s.status is TrialStatus.COMPLETED]
        if not done:
            return 1.0
        scores = np.array([state.score for state in done])
        reference = self.scale.score_reference
        if not np.isfinite(reference):
            reference = float(scores.min())
        volume = LevelPartition.of(
            scores, self.scale.costs(self.measured.of_states(done)), reference, self._reference
        ).dominated_volume(reference)
        gain = float(np.exp(np.max(self.log_gain(points, costs)))) * self.model.warp.scale
        return gain / volume if volume > 0 else 1.0

    def front(self) -> list[TrialState]:
        """Return the trials on the front of expected final scores, pending ones included."""
        if not self._anchor_states:
            return []
        mask = non_dominated(self._mean, self._costs)
        return [s for s, keep in zip(self._anchor_states, mask, strict=True) if keep]

    def _sample_fronts(self, generator: np.random.Generator) -> None:
        reference_score = float(self.model.warp(np.array(self.scale.score_reference)))
        if not np.isfinite(reference_score):
            reference_score = -10.0
        reference = self.scale.cost_reference_point
        span = np.maximum(reference - self.scale.cost_ideal_point, 1.0)
        self._reference: Array = reference + COST_MARGIN * span
        self._mean, covariance = self.model.process.joint(self._anchors)
        self._costs = self.scale.costs(self.measured.of_states(self._anchor_states))
        n = len(self._anchors)
        is_random = n or any(name in self.scale.measured_names for name in self.scale.cost_names)
        samples = 2**LOG2_SAMPLES if is_random else 1
        scores = np.empty((samples, 0))
        m = len(self.scale.cost_names)
        self._normals = np.zeros((samples, m))
        if m and is_random:
            self._normals = _normal_points(m, generator.spawn(1)[0])
        if n:
            self._factor = cholesky_with_jitter(covariance + 1e-9 * np.eye(n))
            self._deviations: Array = _normal_points(n, generator) @ self._factor.T
            scores = self._mean + self._deviations
        known = self.measured.known(self._anchor_states)
        costs = self.measured.sampled(self._anchors, known, self._normals)
        self._partitions = [
            LevelPartition.of(row, costs[i % len(costs)], reference_score, self._reference)
            for i, row in enumerate(scores)
        ]


def _normal_points(n: int, generator: np.random.Generator) -> Array:
    """Return ``s x n`` standard normal draws that fill space evenly."""
    sobol = qmc.Sobol(n, scramble=True, rng=generator).random_base2(LOG2_SAMPLES)
    normal: Array = ndtri(np.clip(sobol, 1e-9, 1 - 1e-9))
    return normal


class FailureRisk:
    """The probability that a configuration does not train to the end; two plain estimates.

    *Divergence* (and failure for unknown reasons) is local: the share of failed trials among all
    that were measured or failed, weighted by the surrogate's similarity k_x, shrunk towards a
    small prior. *Running out of memory* is monotone in predicted memory M: with a the trials
    that did at M or less and b those that trained at M or more, it is a / (a + b + 1).
    """

    def __init__(self, model: CurveModel, states: Sequence[TrialState]) -> None:
        bad = (TrialStatus.DIVERGED, TrialStatus.FAILED)
        judged = [s for s in states if s.curve or s.status in bad]
        judged = [s for s in judged if s.status is not TrialStatus.INFEASIBLE]
        self._model = model
        self._failed = np.array([s.status in bad for s in judged], dtype=np.float64)
        self._X = model.points_of(judged).X
        too_large = [s for s in states if s.status is TrialStatus.INFEASIBLE]
        fitting = [s for s in judged if s.curve]
        self._too_large, self._fitting = (
            np.sort([s.trial.costs.train_memory_bytes for s in group])
            for group in (too_large, fitting)
        )

    def __call__(self, points: Points, costs: Sequence[Costs]) -> Array:
        """Return ``n`` probabilities below 1."""
        survival = np.ones(len(points))
        if self._failed.any():
            weights = self._model.process.similarity(points.X, self._X)
            failed = weights @ self._failed + PRIOR_FAILURE * PRIOR_WEIGHT
            survival -= failed / (weights.sum(axis=1) + PRIOR_WEIGHT)
        if len(self._too_large):
            memory = np.array([c.train_memory_bytes for c in costs])
            a = np.searchsorted(self._too_large, memory, side="right")
            b = len(self._fitting) - np.searchsorted(self._fitting, memory, side="left")
            survival *= 1 - a / (a + b + 1)
        result: Array = 1 - np.clip(survival, 1e-6, 1.0)
        return result


def _contenders(
    model: CurveModel,
    completed: Sequence[TrialState],
    scale: ObjectiveScale,
    measured: MeasuredCosts,
) -> list[TrialState]:
    """Return the completed trials that are on the front in some plausible world."""
    states = [s for s in completed if np.isfinite(s.score)]
    if not states:
        return []
    mean, variance = model.process.predict(model.points_of(states))
    sd = np.sqrt(variance)
    costs = scale.costs(measured.of_states(states))
    no_dearer = np.all(costs[:, None, :] <= costs[None, :, :], axis=2)
    surely_better = (mean - 2 * sd)[:, None] > (mean + 2 * sd)[None, :]
    margin = np.where(no_dearer, (mean + 2 * sd)[None, :] - (mean - 2 * sd)[:, None], np.inf)
    keep = ~np.any(no_dearer & surely_better, axis=0)
    if keep.sum() > MAX_FRONT:
        closest = np.argsort(-margin.min(axis=0) * keep, kind="stable")
        keep[closest[MAX_FRONT:]] = False
    return [s for s, kept in zip(states, keep, strict=True) if kept]
