"""An exact Gaussian process over (encoded configuration, training progress).

Two points of trials i and j at progress t and u (steps done over the trial's full steps) covary
as

    K = k_x(i, j) (w_0 + w_1 k_t(t, u)) + w_2 k_t(t, u) + w_3 [i is j] + noise [same point]

with k_x a Matern-5/2 kernel with one lengthscale per dimension and k_t a Matern-5/2 kernel over
log progress. In words: a configuration has an effect that lasts (w_0) and one that changes along
its curve (w_1), all curves share a trend (w_2), and a trial differs from its neighbours by
something smoothness does not explain, such as its seed, and keeps that along its curve (w_3).

Lengthscales carry the log-normal prior scaled with the dimension of Hvarfner, Hellsten and Nardi,
"Vanilla Bayesian optimization performs great in high dimensions" (ICML 2024), section 4: location
sqrt(2) + log(d)/2, scale sqrt(3). All hyperparameters are found by maximum a posteriori: L-BFGS
over logarithms with analytic gradients. A log-normal density over a positive number is, as a
function of its logarithm, a Gaussian around the logarithm of the mode; that is how every prior is
written here.

Everything is float64 NumPy. Nothing is random: the result is a function of the data, started from
the mode of the prior.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import minimize

Array = NDArray[np.float64]

#: Rows of a pool predicted at once: larger chunks leave the processor's cache.
CHUNK = 500
#: Progress below which logarithms are cut off; far below any rung.
MIN_PROGRESS = 1e-3

# Modes and widths (in logarithms) of the priors of w_0, w_1, w_2, w_3, the noise and the
# lengthscale of log progress, for scores of unit scale. The noise is BoTorch's LogNormal(-4, 1)
# by its mode; the others are weak and say "mostly the configuration, then the common trend".
_SCALE_MODES = np.log([0.8, 0.2, 0.5, 0.05, math.exp(-5.0), 2.0])
_SCALE_WIDTHS = np.array([0.7, 1.0, 1.0, 1.2, 1.0, 0.7])
_SCALE_BOUNDS = ((1e-3, 20.0),) * 3 + ((1e-5, 5.0), (1e-4, 2.0), (0.2, 20.0))
_LENGTHSCALE_WIDTH = math.sqrt(3.0)
_MAX_ITERATIONS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """Where a score is, or would be, measured.

    Attributes:
        X: ``n x d`` encoded configurations in [0, 1].
        progress: ``n`` steps over the trial's full steps, in (0, 1].
        trials: ``n`` trial numbers; a negative number is a configuration that has no trial,
            unlike any other.
    """

    X: Array
    progress: Array
    trials: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.X)

    @classmethod
    def untried(cls, X: Array, progress: float = 1.0) -> Points:
        """Return points of configurations that have no trial, all at one progress."""
        n = len(X)
        return cls(X=X, progress=np.full(n, progress), trials=np.full(n, -1, dtype=np.int64))

    def rows(self, index: NDArray[np.intp] | slice) -> Points:
        """Return some of the points."""
        return Points(X=self.X[index], progress=self.progress[index], trials=self.trials[index])


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyperparameters:
    """What maximum a posteriori found; natural units, for scores of unit scale.

    Attributes:
        lengthscales: ``d`` lengthscales of the encoded dimensions.
        progress_lengthscale: Lengthscale of the natural logarithm of progress.
        lasting, changing, trend, trial: Variances w_0, w_1, w_2, w_3.
        noise: Variance of one measurement.
    """

    lengthscales: Array
    lasting: float
    changing: float
    trend: float
    trial: float
    noise: float
    progress_lengthscale: float

    @property
    def logs(self) -> Array:
        """The vector that is optimised; :meth:`from_logs` reads it."""
        scales = (self.lasting, self.changing, self.trend, self.trial, self.noise)
        return np.log([*self.lengthscales, *scales, self.progress_lengthscale])

    @classmethod
    def from_logs(cls, theta: Array) -> Hyperparameters:
        """Read the vector that is optimised: lengthscales first, then the scales."""
        values = np.exp(theta)
        lasting, changing, trend, trial, noise, progress = (float(v) for v in values[-6:])
        return cls(
            lengthscales=values[:-6],
            lasting=lasting,
            changing=changing,
            trend=trend,
            trial=trial,
            noise=noise,
            progress_lengthscale=progress,
        )


class GaussianProcess:
    """A posterior over scores; build one with :meth:`fit`.

    Args:
        points: ``n`` points.
        y: ``n`` finite scores of about unit scale and centre 0.
        hyperparameters: See :class:`Hyperparameters`.
    """

    def __init__(self, points: Points, y: Array, hyperparameters: Hyperparameters) -> None:
        self.points = points
        self.hyperparameters = hyperparameters
        K = self._kernel(points, points)
        K[np.diag_indices_from(K)] += hyperparameters.noise
        self._factor = cholesky_with_jitter(K)
        self._weights = cho_solve((self._factor, True), y)

    @classmethod
    def fit(cls, points: Points, y: Array, *, max_fit_points: int = 256) -> GaussianProcess:
        """Fit hyperparameters to the last ``max_fit_points`` points, then condition on all.

        Put the points that say most last: hyperparameters hardly change with more points, while
        the time to fit them grows with the cube.

        Raises:
            ValueError: no points, or ``y`` is not finite or not of their number.
        """
        last = slice(max(0, len(points) - max_fit_points), None)
        return cls(points, y, fit_hyperparameters(points.rows(last), y[last]))

    def predict(self, points: Points) -> tuple[Array, Array]:
        """Return mean and variance of the noise-free score at each of ``n`` points."""
        empty = Points(X=points.X[:0], progress=points.progress[:0], trials=points.trials[:0])
        mean, variance, _ = self.predict_with_covariance(points, empty)
        return mean, variance

    def predict_with_covariance(
        self, points: Points, anchors: Points
    ) -> tuple[Array, Array, Array]:
        """Return mean, variance and the posterior covariance (``n x a``) with ``a`` anchors."""
        n = len(points)
        mean, variance = np.empty(n), np.empty(n)
        covariance = np.empty((n, len(anchors)))
        at_anchors = self._whitened(anchors)[0]
        for start in range(0, n, CHUNK):
            rows = slice(start, min(n, start + CHUNK))
            chunk = points.rows(rows)
            whitened, cross = self._whitened(chunk)
            mean[rows] = cross.T @ self._weights
            variance[rows] = self._prior_variance() - np.einsum("ij,ij->j", whitened, whitened)
            covariance[rows] = self._kernel(chunk, anchors) - whitened.T @ at_anchors
        return mean, np.maximum(variance, 1e-12), covariance

    def joint(self, points: Points) -> tuple[Array, Array]:
        """Return mean (``n``) and covariance (``n x n``) of the noise-free scores."""
        whitened, cross = self._whitened(points)
        covariance = self._kernel(points, points) - whitened.T @ whitened
        np.fill_diagonal(covariance, np.maximum(np.diag(covariance), 1e-12))
        return cross.T @ self._weights, covariance

    def similarity(self, X: Array, Z: Array) -> Array:
        """Return k_x between ``n`` and ``m`` encoded configurations: 1 where they are equal."""
        lengthscales = self.hyperparameters.lengthscales
        return _matern(_distances(X / lengthscales, Z / lengthscales))

    def _whitened(self, points: Points) -> tuple[Array, Array]:
        cross = self._kernel(self.points, points)
        return solve_triangular(self._factor, cross, lower=True, check_finite=False), cross

    def _prior_variance(self) -> float:
        h = self.hyperparameters
        return h.lasting + h.changing + h.trend + h.trial

    def _kernel(self, a: Points, b: Points) -> Array:
        h = self.hyperparameters
        over_x = self.similarity(a.X, b.X)
        t, u = (log_progress(p)[:, None] / h.progress_lengthscale for p in (a, b))
        over_t = _matern(np.abs(t - u.T))
        same = _same_trial(a, b)
        if a is b:
            np.fill_diagonal(same, 1.0)
        return over_x * (h.lasting + h.changing * over_t) + h.trend * over_t + h.trial * same


def fit_hyperparameters(
    points: Points, y: Array, *, start: Hyperparameters | None = None
) -> Hyperparameters:
    """Return the hyperparameters of maximum a posteriori.

    Args:
        points: ``n`` points.
        y: ``n`` finite scores of about unit scale and centre 0.
        start: Where to start: what was found for fewer points, say. None for the prior's mode.

    Raises:
        ValueError: no points, or ``y`` is not finite or not of their number.
    """
    if len(points) == 0 or y.shape != (len(points),) or not np.all(np.isfinite(y)):
        raise ValueError(f"expected {len(points)} > 0 finite scores, got shape {y.shape}")
    objective = _Objective(points, y)
    found = minimize(
        objective,
        objective.prior_modes if start is None else start.logs,
        jac=True,
        method="L-BFGS-B",
        bounds=objective.bounds,
        options={"maxiter": _MAX_ITERATIONS, "ftol": 1e-7, "gtol": 1e-3},
    )
    return Hyperparameters.from_logs(np.asarray(found.x))


class _Objective:
    """The negative log posterior of the hyperparameters, with its gradient."""

    def __init__(self, points: Points, y: Array) -> None:
        self._points = points
        self._y = y
        self._log_progress = log_progress(points)[:, None]
        self._same = _same_trial(points, points)
        np.fill_diagonal(self._same, 1.0)
        d = points.X.shape[1]
        mode = math.sqrt(2.0) + math.log(max(1, d)) / 2 - _LENGTHSCALE_WIDTH**2
        self.prior_modes = np.concatenate([np.full(d, mode), _SCALE_MODES])
        self._widths = np.concatenate([np.full(d, _LENGTHSCALE_WIDTH), _SCALE_WIDTHS])
        lengthscale = (math.log(0.02), math.log(1e3))
        self.bounds = [lengthscale] * d + [(math.log(a), math.log(b)) for a, b in _SCALE_BOUNDS]

    def __call__(self, theta: Array) -> tuple[float, Array]:
        h = Hyperparameters.from_logs(theta)
        Z = self._points.X / h.lengthscales
        distance_x = _distances(Z, Z)
        decay_x = np.exp(-math.sqrt(5.0) * distance_x)
        over_x = (1 + math.sqrt(5.0) * distance_x + 5 / 3 * distance_x**2) * decay_x
        T = self._log_progress / h.progress_lengthscale
        distance_t = np.abs(T - T.T)
        over_t = _matern(distance_t)
        progress_part = h.lasting + h.changing * over_t
        K = over_x * progress_part + h.trend * over_t + h.trial * self._same
        K[np.diag_indices_from(K)] += h.noise
        factor = cholesky_with_jitter(K)
        weights = cho_solve((factor, True), self._y, check_finite=False)
        value = 0.5 * float(self._y @ weights) + float(np.log(np.diag(factor)).sum())
        inverse = cho_solve((factor, True), np.eye(len(self._y)), check_finite=False)
        G = 0.5 * (inverse - np.outer(weights, weights))  # d value / d K

        # d k_x / d log lengthscale_j = 5/3 (1 + sqrt(5) r) exp(-sqrt(5) r) (z_aj - z_bj)^2, summed
        # against G without an n x n x d array: sum_ab M_ab (z_a - z_b)^2 = 2 (rows z^2 - z M z).
        M = G * progress_part * (5 / 3) * (1 + math.sqrt(5.0) * distance_x) * decay_x
        by_lengthscale = 2 * (M.sum(axis=1) @ Z**2 - np.einsum("aj,aj->j", Z, M @ Z))
        slope_t = (5 / 3) * distance_t**2 * (1 + math.sqrt(5.0) * distance_t)
        slope_t *= np.exp(-math.sqrt(5.0) * distance_t)
        G_x = G * over_x
        by_scale = np.array(
            [
                h.lasting * G_x.sum(),
                h.changing * (G_x * over_t).sum(),
                h.trend * (G * over_t).sum(),
                h.trial * (G * self._same).sum(),
                h.noise * np.trace(G),
                ((h.changing * G_x + h.trend * G) * slope_t).sum(),
            ]
        )
        deviation = (theta - self.prior_modes) / self._widths
        value += 0.5 * float(deviation @ deviation)
        return value, np.concatenate([by_lengthscale, by_scale]) + deviation / self._widths


def log_progress(points: Points) -> Array:
    """Return the natural logarithm of progress, 0 at full."""
    return np.log(np.maximum(points.progress, MIN_PROGRESS))


def _same_trial(a: Points, b: Points) -> Array:
    same = (a.trials[:, None] == b.trials[None, :]) & (a.trials[:, None] >= 0)
    result: Array = same.astype(np.float64)
    return result


def _distances(A: Array, B: Array) -> Array:
    """Return Euclidean distances, ``n x m``, by one matrix product."""
    squares = (A**2).sum(axis=1)[:, None] + (B**2).sum(axis=1)[None, :] - 2 * A @ B.T
    result: Array = np.sqrt(np.maximum(squares, 0.0))
    return result


def _matern(distance: Array) -> Array:
    scaled = math.sqrt(5.0) * distance
    result: Array = (1 + scaled + scaled**2 / 3) * np.exp(-scaled)
    return result


def cholesky_with_jitter(K: Array) -> Array:
    """Return the lower factor of ``K``, with as little jitter as it takes."""
    for jitter in (0.0, 1e-8, 1e-6, 1e-4, 1e-2):
        try:
            factor: Array = np.asarray(np.linalg.cholesky(K + jitter * np.eye(len(K))), np.float64)
            return factor
        except np.linalg.LinAlgError:
            continue
    raise AssertionError("a kernel matrix with jitter 0.01 is not positive definite")
