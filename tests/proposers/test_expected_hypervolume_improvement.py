"""The closed form against brute force, quadrature and BoTorch."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.stats import norm

from autopeft.proposers.expected_hypervolume_improvement import (
    LevelPartition,
    log_expected_hypervolume_improvement,
    log_expected_improvement,
    log_h,
    log_noisy_expected_hypervolume_improvement,
)

with warnings.catch_warnings():
    # linear_operator decorates functions with a deprecated torch.jit.script as it is imported.
    warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
    from botorch.acquisition.multi_objective import logei
    from botorch.models.deterministic import GenericDeterministicModel
    from botorch.utils.multi_objective.box_decompositions.non_dominated import (
        FastNondominatedPartitioning,
    )

Array = NDArray[np.float64]

REFERENCE_SCORE = 0.0


def random_front(k: int, m: int, seed: int) -> tuple[Array, Array]:
    """Draw ``k`` points, many of them dominated, with ties and copies among them."""
    generator = np.random.default_rng([seed, k, m])
    scores = generator.uniform(-0.2, 1.0, k).round(1 if seed % 2 else 6)
    costs = generator.uniform(0.0, 1.1, (k, m)).round(1 if seed % 2 else 6)
    if k > 3:
        scores[1], costs[1] = scores[0], costs[0]
    return scores, costs


def volume(scores: Array, costs: Array, reference_costs: Array, grid: Array) -> Array:
    """Return what ``grid`` points of cost space already buy: the brute force for L(c')."""
    bought = np.full(len(grid), REFERENCE_SCORE)
    for score, cost in zip(scores, costs, strict=True):
        reached = np.all(cost <= grid, axis=1)
        bought[reached] = np.maximum(bought[reached], score)
    return bought


def exact_gain(scores: Array, costs: Array, y: float, c: Array, reference: Array) -> float:
    """Return the gained volume of one point exactly, on the grid of all coordinates."""
    m = costs.shape[1]
    axes = [
        np.unique(np.clip(np.r_[c[i], costs[:, i], reference[i]], c[i], reference[i]))
        for i in range(m)
    ]
    if any(len(axis) < 2 for axis in axes):
        return 0.0
    lower = np.stack(np.meshgrid(*(a[:-1] for a in axes), indexing="ij"), -1).reshape(-1, m)
    sides = np.stack(np.meshgrid(*(np.diff(a) for a in axes), indexing="ij"), -1).reshape(-1, m)
    level = volume(scores, costs, reference, lower)
    return float((np.maximum(0, y - level) * sides.prod(axis=1)).sum())


@pytest.mark.parametrize("z", [-40.0, -12.0, -3.0, -1.0, -0.5, 0.0, 1.0, 8.0])
def test_log_h_equals_quadrature(z: float) -> None:
    # In the tail the integrand is scaled by its value at 0, so that it does not underflow.
    integral, _ = quad(lambda t: t * math.exp(-0.5 * t * t + z * t), 0, 40, epsabs=0, limit=200)
    expected = math.log(integral) - 0.5 * z * z - 0.5 * math.log(2 * math.pi)
    assert log_h(np.array(z)) == pytest.approx(expected, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("z", [-1.0, -1e3])
def test_log_h_has_no_step_where_branches_meet(z: float) -> None:
    left, right = log_h(np.array([z * (1 + 1e-9), z * (1 - 1e-9)]))
    assert left == pytest.approx(right, rel=1e-6)


def test_log_expected_improvement_survives_where_the_plain_one_underflows() -> None:
    sds = np.array([39.0, 1e2, 1e4, 1e7])
    values = log_expected_improvement(-sds, np.array(1.0), np.array(0.0))
    assert np.all(np.isfinite(values))
    assert np.all(np.diff(values) < 0)


def test_log_expected_improvement_without_uncertainty() -> None:
    values = log_expected_improvement(np.array([2.0, 1.0, 0.0]), np.zeros(3), np.array(1.0))
    np.testing.assert_allclose(values, [0.0, -np.inf, -np.inf])


@pytest.mark.parametrize("m", [0, 1, 2, 3])
@pytest.mark.parametrize("k", [0, 1, 2, 7, 40])
@pytest.mark.parametrize("seed", [0, 1])
def test_certain_gain_equals_the_grid(k: int, m: int, seed: int) -> None:
    if m == 3 and k == 40:
        k = 12
    scores, costs = random_front(k, m, seed)
    generator = np.random.default_rng([7, seed])
    y, c = generator.uniform(0, 1.2, 20), generator.uniform(-0.1, 1.05, (20, m))
    reference = np.ones(m)
    partition = LevelPartition.of(scores, costs, REFERENCE_SCORE, reference)
    gains = np.exp(log_expected_hypervolume_improvement(y, np.zeros(20), c, partition))
    inside = np.all(costs <= 1.0, axis=1)
    expected = [
        exact_gain(scores[inside], costs[inside], y[i], c[i], reference)
        if m
        else max(0.0, y[i] - max([REFERENCE_SCORE, *scores]))
        for i in range(20)
    ]
    np.testing.assert_allclose(gains, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("k", [0, 1, 5, 40])
@pytest.mark.parametrize("seed", [0, 1])
def test_expected_gain_equals_monte_carlo(k: int, m: int, seed: int) -> None:
    scores, costs = random_front(k, m, seed)
    generator = np.random.default_rng([11, seed])
    reference = np.ones(m)
    mean, sd, c = 0.7, 0.3, generator.uniform(0, 0.5, m)
    partition = LevelPartition.of(scores, costs, REFERENCE_SCORE, reference)
    closed = math.exp(
        log_expected_hypervolume_improvement(np.array([mean]), np.array([sd]), c[None], partition)[
            0
        ]
    )
    # Stratified scores: the gain is piecewise linear in the score, so 300 strata are plenty.
    y = mean + sd * norm.ppf((np.arange(300) + 0.5) / 300)
    inside = np.all(costs <= 1.0, axis=1)
    expected = np.mean([exact_gain(scores[inside], costs[inside], v, c, reference) for v in y])
    assert closed == pytest.approx(expected, rel=5e-3, abs=1e-6)


@pytest.mark.parametrize("k", [1, 6, 15])
def test_expected_gain_equals_botorch(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """BoTorch maximises everything, so costs enter as deterministic negative objectives."""
    # It would compile C++ where there is a compiler, and warn where there is none.
    monkeypatch.setattr(logei, "_try_load_fused_kernel", lambda: None)
    generator = np.random.default_rng(k)
    scores, costs = random_front(k, 2, seed=2 * k)
    reference = np.ones(2)
    y_samples = 0.8 + 0.2 * norm.ppf((np.arange(64) + 0.5) / 64)
    c = generator.uniform(0, 0.4, (2, 2))

    def outcome(X: torch.Tensor) -> torch.Tensor:
        # X is strata x 1 x 3: a score and the costs.
        return X * torch.tensor([1.0, -1.0, -1.0], dtype=X.dtype)

    Y = torch.tensor(np.c_[scores, -costs])
    partitioning = FastNondominatedPartitioning(
        ref_point=torch.tensor([REFERENCE_SCORE, -1.0, -1.0], dtype=torch.double), Y=Y
    )
    acquisition = logei.qLogExpectedHypervolumeImprovement(
        model=GenericDeterministicModel(outcome, num_outputs=3),
        ref_point=[REFERENCE_SCORE, -1.0, -1.0],
        partitioning=partitioning,
        tau_relu=1e-6,
        tau_max=1e-4,
        fat=False,
    )
    partition = LevelPartition.of(scores, costs, REFERENCE_SCORE, reference)
    ours = log_expected_hypervolume_improvement(np.full(2, 0.8), np.full(2, 0.2), c, partition)
    for i in range(2):
        points = torch.tensor(np.c_[y_samples, np.tile(c[i], (len(y_samples), 1))])
        with torch.no_grad():
            theirs = acquisition(points.unsqueeze(1)).exp().mean().log().item()
        assert ours[i] == pytest.approx(theirs, abs=5e-3)


def test_noisy_average_is_the_mean_over_fronts() -> None:
    generator = np.random.default_rng(0)
    fronts = [random_front(6, 2, seed) for seed in range(4)]
    partitions = [LevelPartition.of(s, c, 0.0, np.ones(2)) for s, c in fronts]
    means, sd = generator.uniform(0, 1, (9, 4)), generator.uniform(0.1, 0.3, 9)
    costs = generator.uniform(0, 0.9, (9, 2))
    noisy = log_noisy_expected_hypervolume_improvement(means, sd, costs[None], partitions)
    each = [
        np.exp(log_expected_hypervolume_improvement(means[:, s], sd, costs, partition))
        for s, partition in enumerate(partitions)
    ]
    np.testing.assert_allclose(np.exp(noisy), np.mean(each, axis=0), rtol=1e-12)


def test_unusable_scores_are_no_front() -> None:
    scores = np.array([np.nan, np.inf, -np.inf, 0.5])
    costs = np.array([[0.1, 0.1], [0.1, 0.1], [0.1, 0.1], [0.2, 0.2]])
    partition = LevelPartition.of(scores, costs, 0.0, np.ones(2))
    assert set(partition.levels) == {0.0, 0.5}


coordinate = st.integers(0, 10).map(lambda value: value / 10)
members = st.lists(st.tuples(coordinate, coordinate, coordinate), max_size=8)


@settings(max_examples=60, deadline=None)
@given(front=members, extra=st.tuples(coordinate, coordinate, coordinate), z=coordinate)
def test_a_larger_front_never_leaves_more_to_gain(
    front: list[tuple[float, float, float]], extra: tuple[float, float, float], z: float
) -> None:
    c = np.array([[0.3, 0.2]])

    def gain(points: list[tuple[float, float, float]]) -> float:
        table = np.array(points).reshape(-1, 3)
        partition = LevelPartition.of(table[:, 0], table[:, 1:], 0.0, np.ones(2))
        return float(
            log_expected_hypervolume_improvement(np.array([z]), np.array([0.2]), c, partition)[0]
        )

    assert gain([*front, extra]) <= gain(front) + 1e-9


@settings(max_examples=60, deadline=None)
@given(front=members, z=coordinate, better=coordinate, saved=coordinate)
def test_gain_grows_with_the_score_and_falls_with_the_costs(
    front: list[tuple[float, float, float]], z: float, better: float, saved: float
) -> None:
    table = np.array(front).reshape(-1, 3)
    partition = LevelPartition.of(table[:, 0], table[:, 1:], 0.0, np.ones(2))
    mean = np.array([z, z + better, z, z])
    costs = np.array([[0.5, 0.5], [0.5, 0.5], [0.5 * (1 - saved), 0.5], [0.5, 0.5]])
    sd = np.array([0.2, 0.2, 0.2, 0.2 + 0.2 * better])
    base, scored, cheaper, unsure = log_expected_hypervolume_improvement(mean, sd, costs, partition)
    assert min(scored, cheaper, unsure) >= base - 1e-9


@pytest.mark.parametrize("k", [0, 3, 12])
def test_boxes_tile_the_space_below_the_reference(k: int) -> None:
    scores, costs = random_front(k, 2, seed=4)
    partition = LevelPartition.of(scores, costs, 0.0, np.ones(2))
    points = np.random.default_rng(3).uniform(-0.5, 1.0, (500, 2))
    inside = np.all(
        (partition.lower <= points[:, None]) & (points[:, None] < partition.upper), axis=2
    )
    np.testing.assert_array_equal(inside.sum(axis=1), 1)
    keep = np.all(costs < 1.0, axis=1)
    np.testing.assert_allclose(
        partition.levels[inside.argmax(axis=1)],
        volume(scores[keep], costs[keep], np.ones(2), points),
    )


@pytest.mark.parametrize("m", [0, 1, 2, 3])
def test_the_volume_of_a_front_is_the_sum_of_its_members_gains(m: int) -> None:
    generator = np.random.default_rng(m)
    scores, costs = generator.random(12).round(1), generator.random((12, m)).round(1)
    reference = np.full(m, 0.95)
    total = 0.0
    for k in range(len(scores)):
        before = LevelPartition.of(scores[:k], costs[:k], 0.1, reference)
        gain = log_expected_hypervolume_improvement(
            scores[k : k + 1], np.zeros(1), costs[k : k + 1], before
        )
        total += float(np.exp(gain[0]))
    partition = LevelPartition.of(scores, costs, 0.1, reference)
    assert total > 0
    assert partition.dominated_volume(0.1) == pytest.approx(total)
