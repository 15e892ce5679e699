"""The Gaussian process against its definition, entry by entry, and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import approx_fprime

from autopeft.surrogates.gaussian_process import (
    GaussianProcess,
    Hyperparameters,
    Points,
    _Objective,
    cholesky_with_jitter,
)
from autopeft.surrogates.threads import one_blas_thread

Array = NDArray[np.float64]


def curves(num_trials: int, d: int, *, seed: int = 0) -> tuple[Points, Array]:
    """Return two measurements of each trial, at a quarter and at the end."""
    generator = np.random.default_rng(seed)
    X = np.repeat(generator.random((num_trials, d)), 2, axis=0)
    progress = np.tile([0.25, 1.0], num_trials)
    trials = np.repeat(np.arange(num_trials), 2)
    y = np.sin(3 * X[:, 0]) + X[:, 1] + 0.5 * np.log(progress)
    y += 0.03 * generator.standard_normal(len(y))
    return Points(X=X, progress=progress, trials=trials), (y - y.mean()) / y.std()


def covariance(h: Hyperparameters, a: Points, b: Points) -> Array:
    """Return the kernel of the module's docstring, entry by entry."""
    K = np.empty((len(a), len(b)))

    def matern(r: float) -> float:
        s = 5**0.5 * r
        return float((1 + s + s * s / 3) * np.exp(-s))

    for i in range(len(a)):
        for j in range(len(b)):
            over_x = matern(float(np.linalg.norm((a.X[i] - b.X[j]) / h.lengthscales)))
            gap = abs(np.log(a.progress[i]) - np.log(b.progress[j]))
            over_t = matern(gap / h.progress_lengthscale)
            same = a.trials[i] == b.trials[j] and a.trials[i] >= 0
            K[i, j] = over_x * (h.lasting + h.changing * over_t) + h.trend * over_t
            K[i, j] += h.trial * same
    return K


@pytest.fixture(scope="module")
def fitted() -> tuple[GaussianProcess, Points, Array]:
    points, y = curves(25, 4)
    return GaussianProcess.fit(points, y), points, y


@pytest.mark.parametrize("shift", [0.0, 0.5, -1.0])
def test_gradient_equals_finite_differences(shift: float) -> None:
    points, y = curves(8, 3)
    objective = _Objective(points, y)
    theta = objective.prior_modes + shift * np.cos(np.arange(len(objective.prior_modes)))
    numeric = approx_fprime(theta, lambda t: objective(t)[0], 1e-6)
    np.testing.assert_allclose(objective(theta)[1], numeric, rtol=1e-4, atol=1e-4)


def test_posterior_equals_the_textbook(fitted: tuple[GaussianProcess, Points, Array]) -> None:
    process, points, y = fitted
    h = process.hyperparameters
    new = Points.untried(np.random.default_rng(5).random((7, 4)), progress=0.5)
    anchors = points.rows(slice(0, 3))
    K = covariance(h, points, points) + h.noise * np.eye(len(y))
    cross, at_anchors = covariance(h, points, new), covariance(h, points, anchors)
    prior = h.lasting + h.changing + h.trend + h.trial
    mean, variance, shared = process.predict_with_covariance(new, anchors)
    np.testing.assert_allclose(mean, cross.T @ np.linalg.solve(K, y), atol=1e-8)
    expected = prior - np.diag(cross.T @ np.linalg.solve(K, cross))
    np.testing.assert_allclose(variance, expected, atol=1e-8)
    expected = covariance(h, new, anchors) - cross.T @ np.linalg.solve(K, at_anchors)
    np.testing.assert_allclose(shared, expected, atol=1e-8)


def test_joint_agrees_with_marginals_and_chunks(
    fitted: tuple[GaussianProcess, Points, Array],
) -> None:
    process, points, _ = fitted
    new = Points.untried(np.random.default_rng(6).random((1203, 4)))
    mean, variance = process.predict(new)
    some = np.array([0, 499, 500, 1202])
    joint_mean, joint = process.joint(new.rows(some))
    np.testing.assert_allclose(joint_mean, mean[some], atol=1e-10)
    np.testing.assert_allclose(np.diag(joint), variance[some], atol=1e-10)
    assert process.joint(points)[1].shape == (len(points), len(points))


def test_it_learns_which_dimensions_matter() -> None:
    points, y = curves(60, 12)
    process = GaussianProcess.fit(points, y)
    lengthscales = process.hyperparameters.lengthscales
    assert lengthscales[:2].max() < lengthscales[2:].min()
    new = Points.untried(np.random.default_rng(9).random((200, 12)))
    truth = np.sin(3 * new.X[:, 0]) + new.X[:, 1]
    assert np.corrcoef(process.predict(new)[0], truth)[0, 1] > 0.95


def test_the_curve_of_a_stopped_trial_tells_of_its_end() -> None:
    """A trial far ahead at a quarter is expected ahead of its untried twin's neighbours."""
    points, y = curves(20, 3)
    stopped = Points(
        X=np.array([[0.5, 0.5, 0.5]]), progress=np.array([0.25]), trials=np.array([99])
    )
    everything = Points(
        X=np.concatenate([points.X, stopped.X]),
        progress=np.concatenate([points.progress, stopped.progress]),
        trials=np.concatenate([points.trials, stopped.trials]),
    )
    at_end = Points(X=stopped.X, progress=np.ones(1), trials=stopped.trials)
    untried = Points.untried(stopped.X)
    mean_without, _ = GaussianProcess.fit(points, y).predict(untried)
    process = GaussianProcess.fit(everything, np.append(y, 3.0))
    assert process.predict(at_end)[0][0] > mean_without[0] + 0.1
    assert process.predict(at_end)[1][0] < process.predict(untried)[1][0]


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_scores_at_copies_of_one_point(n: int, value: float) -> None:
    points = Points(X=np.zeros((n, 3)), progress=np.ones(n), trials=np.arange(n))
    process = GaussianProcess.fit(points, np.full(n, value))
    mean, variance = process.predict(Points.untried(np.zeros((2, 3))))
    assert np.all(np.isfinite(mean))
    assert np.all(variance > 0)
    assert abs(mean[0]) <= abs(value) + 1e-9


def test_variance_is_positive_at_the_data(fitted: tuple[GaussianProcess, Points, Array]) -> None:
    process, points, y = fitted
    mean, variance = process.predict(points)
    assert np.all(variance > 0)
    assert np.abs(mean - y).max() < 0.5


@pytest.mark.parametrize(
    "y", [np.zeros(0), np.zeros(4), np.array([0.0, np.nan, 1.0]), np.array([0.0, np.inf, 1.0])]
)
def test_unusable_scores_are_refused(y: Array) -> None:
    points = Points(X=np.zeros((3, 2)), progress=np.ones(3), trials=np.arange(3))
    with pytest.raises(ValueError, match="expected 3 > 0 finite scores"):
        GaussianProcess.fit(points, y)


def test_fit_is_the_same_twice_and_on_a_subset_uses_all_data() -> None:
    points, y = curves(20, 3)
    first, second = (GaussianProcess.fit(points, y, max_fit_points=16) for _ in range(2))
    new = Points.untried(np.random.default_rng(1).random((5, 3)))
    np.testing.assert_array_equal(first.predict(new)[0], second.predict(new)[0])
    mean, _ = first.predict(points)
    assert np.abs(mean - y).max() < 0.5


def test_a_singular_matrix_gets_jitter() -> None:
    factor = cholesky_with_jitter(np.ones((4, 4)))
    np.testing.assert_allclose(factor @ factor.T, np.ones((4, 4)), atol=1e-3)


def test_linear_algebra_keeps_to_one_thread() -> None:
    from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

    with one_blas_thread():
        pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
        assert [pool["num_threads"] for pool in pools] == [1] * len(pools)
        assert pools
