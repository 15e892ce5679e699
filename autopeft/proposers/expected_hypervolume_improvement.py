"""The closed form of expected hypervolume improvement where costs are known.

Let a candidate have known costs c and an uncertain score y. With L(c') the best score among front
members that cost no more than c' (the reference score where there is none), the volume it adds is

    gain(y) = integral over c <= c' <= r of max(0, y - L(c')) dc'

L is constant on boxes of cost space, so with y Gaussian the expectation is a sum over boxes of
volume times the one-dimensional expected improvement over the box's level. It is exact, for any
number of costs. Dominance and hypervolume are those of Emmerich, Giannakoglou and Naujoks, "Single-
and multiobjective evolutionary optimization assisted by Gaussian random field metamodels" (IEEE
TEC 2006), where every objective is uncertain; with all but one known the integral is this sum.

Expected improvement underflows at 39 standard deviations; everything is kept in logarithms after
Ament, Daulton, Eriksson, Balandat and Bakshy, "Unexpected improvements to expected improvement for
Bayesian optimization" (NeurIPS 2023), equations 8 and 9 and appendix A.1.

Where the scores of the front are themselves uncertain, they are sampled and the gain averaged
(Daulton, Balandat and Bakshy, "Parallel Bayesian optimization of multiple noisy objectives with
expected hypervolume improvement", NeurIPS 2021), the candidate's posterior being conditioned on
each sample, so that no noise of the candidate itself has to be sampled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfcx, logsumexp, ndtr

Array = NDArray[np.float64]

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def log_expected_improvement(mean: Array, sd: Array, level: Array) -> Array:
    """Return log E[max(0, y - level)] for y ~ N(mean, sd^2), elementwise with broadcasting.

    Exact to about 1e-8 relative from far above the level to thousands of standard deviations
    below it; ``-inf`` only where ``sd`` is 0 and the mean does not exceed the level.
    """
    mean, sd, level = np.broadcast_arrays(mean, sd, level)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
        z = (mean - level) / sd
        result = np.log(sd) + log_h(z)
        certain = np.log(np.maximum(mean - level, 0.0))
    return np.where(sd > 0, result, certain)


def log_h(z: Array) -> Array:
    """Return log(pdf(z) + z cdf(z)) of the standard normal, without underflow.

    For z < -1 it is log pdf(z) + log(1 - |z| m(|z|)) with m the Mills ratio; where that
    difference cancels (z < -1e3), its asymptote 1 / z^2.
    """
    z = np.asarray(z, dtype=np.float64)
    near = np.maximum(z, -1.0)
    direct = np.log(np.exp(-0.5 * near**2 - _LOG_SQRT_2PI) + near * ndtr(near))
    far = np.minimum(z, -1.0)
    mills = math.sqrt(math.pi / 2) * erfcx(-far / math.sqrt(2.0))
    difference = np.maximum(1.0 + far * mills, 1e-300)
    tail = np.where(far < -1e3, -2 * np.log(-far), np.log(difference))
    return np.where(z > -1.0, direct, -0.5 * far**2 - _LOG_SQRT_2PI + tail)


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelPartition:
    """Disjoint boxes that tile cost space below the reference, each with one level.

    Attributes:
        lower: ``b x m`` lower corners; ``-inf`` where a box is open.
        upper: ``b x m`` upper corners.
        levels: ``b`` best scores that these costs already buy, ascending.
    """

    lower: Array
    upper: Array
    levels: Array

    @classmethod
    def of(
        cls, scores: Array, costs: Array, reference_score: float, reference_costs: Array
    ) -> LevelPartition:
        """Partition by a front.

        Args:
            scores: ``k`` scores; NaN, infinite and dominated ones, ties and copies do no harm.
            costs: ``k x m`` costs.
            reference_score: Score below which nothing counts.
            reference_costs: ``m`` costs from which on nothing counts.

        Members are taken from the best score down; each takes what is still free of the region
        it dominates, and every free box it cuts leaves at most m smaller ones.
        """
        scores, costs = np.asarray(scores, dtype=np.float64), np.asarray(costs, dtype=np.float64)
        m = len(reference_costs)
        counts = np.isfinite(scores) & (scores > reference_score)
        counts &= np.all(costs < reference_costs, axis=1)
        free_lower, free_upper = np.full((1, m), -np.inf), reference_costs[None, :].copy()
        lower, upper, levels = [], [], []
        for k in sorted(np.flatnonzero(counts), key=lambda k: -scores[k]):
            cut = np.all(free_upper > costs[k], axis=1)
            if not cut.any():
                continue
            boxes_lower, boxes_upper = free_lower[cut], free_upper[cut]
            rest_lower, rest_upper = [free_lower[~cut]], [free_upper[~cut]]
            for axis in range(m):
                has_rest = boxes_lower[:, axis] < costs[k, axis]
                piece_upper = boxes_upper[has_rest].copy()
                piece_upper[:, axis] = costs[k, axis]
                rest_lower.append(boxes_lower[has_rest])
                rest_upper.append(piece_upper)
                boxes_lower = boxes_lower.copy()
                boxes_lower[:, axis] = np.maximum(boxes_lower[:, axis], costs[k, axis])
            lower.append(boxes_lower)
            upper.append(boxes_upper)
            levels.append(np.full(len(boxes_lower), scores[k]))
            free_lower, free_upper = np.concatenate(rest_lower), np.concatenate(rest_upper)
        lower.append(free_lower)
        upper.append(free_upper)
        levels.append(np.full(len(free_lower), reference_score))
        return cls(
            lower=np.concatenate(lower[::-1]),
            upper=np.concatenate(upper[::-1]),
            levels=np.concatenate(levels[::-1]),
        )

    def dominated_volume(self, reference_score: float) -> float:
        """Return the hypervolume of the front, above the reference it was made with."""
        above = self.levels - reference_score
        dominated = above > 0
        sizes = np.prod(self.upper[dominated] - self.lower[dominated], axis=1)
        return float(sizes @ above[dominated])

    def volumes(self, costs: Array) -> tuple[Array, Array]:
        """Return the distinct levels (``u``) and how much of each ``n`` candidates dominate.

        Args:
            costs: ``n x m`` costs of the candidates.

        Returns:
            Levels, ascending, and an ``n x u`` array of volumes in cost space.
        """
        product = np.ones((len(costs), len(self.levels)))
        for axis in range(costs.shape[1]):
            start = np.maximum(costs[:, axis, None], self.lower[None, :, axis])
            product *= np.maximum(self.upper[None, :, axis] - start, 0.0)
        first = np.flatnonzero(np.r_[True, np.diff(self.levels) > 0])
        return self.levels[first], np.add.reduceat(product, first, axis=1)


def log_expected_hypervolume_improvement(
    mean: Array, sd: Array, costs: Array, partition: LevelPartition
) -> Array:
    """Return the logarithm of the expected gain of ``n`` candidates, exact.

    Args:
        mean: ``n`` expected scores.
        sd: ``n`` standard deviations.
        costs: ``n x m`` known costs.
        partition: The front, see :meth:`LevelPartition.of`.

    ``-inf`` only where a candidate dominates no volume at all.
    """
    levels, volumes = partition.volumes(costs)
    with np.errstate(divide="ignore"):
        terms = np.log(volumes)
    terms += log_expected_improvement(mean[:, None], sd[:, None], levels[None, :])
    result: Array = _logsumexp(terms, axis=1)
    return result


def log_noisy_expected_hypervolume_improvement(
    means: Array, sd: Array, costs: Array, partitions: Sequence[LevelPartition]
) -> Array:
    """Return the logarithm of the gain averaged over sampled fronts.

    Args:
        means: ``n x s`` expected scores of the candidates given each of ``s`` samples of the
            scores of front members and pending trials.
        sd: ``n`` standard deviations given a sample; the same for each of them.
        costs: ``s x n x m`` costs given a sample; ``1 x n x m`` where they are known.
        partitions: The ``s`` sampled fronts.
    """
    gains = [
        log_expected_hypervolume_improvement(means[:, s], sd, costs[s % len(costs)], partition)
        for s, partition in enumerate(partitions)
    ]
    result: Array = _logsumexp(np.stack(gains, axis=1), axis=1) - math.log(len(partitions))
    return result


def _logsumexp(terms: Array, axis: int) -> Array:
    with np.errstate(divide="ignore"):
        result: Array = logsumexp(terms, axis=axis)
    return result
