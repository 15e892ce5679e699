"""Hypervolumes of standard problems against published ones, the gain against plain Monte Carlo."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from autopeft.proposers.expected_hypervolume_improvement import (
    LevelPartition,
    log_expected_hypervolume_improvement,
)
from tests.proposers.test_expected_hypervolume_improvement import random_front

Array = NDArray[np.float64]


def hypervolume(minimised: Array, reference: Array) -> float:
    """Return the hypervolume of ``n x m`` points of which everything is minimised.

    The first objective, negated, is taken for the score and the others for costs.
    """
    partition = LevelPartition.of(-minimised[:, 0], minimised[:, 1:], -reference[0], reference[1:])
    return partition.dominated_volume(-reference[0])


def zdt(number: int, n: int = 20_000) -> Array:
    """Return the Pareto front of ZDT1, 2 or 3 (Zitzler, Deb and Thiele, 2000)."""
    f = np.linspace(0, 1, n)
    second = {
        1: 1 - np.sqrt(f),
        2: 1 - f**2,
        3: 1 - np.sqrt(f) - f * np.sin(10 * np.pi * f),
    }[number]
    is_front = np.minimum.accumulate(second) >= second
    return np.column_stack([f, second])[is_front]


# With the reference point (11, 11) of BoTorch and pymoo. ZDT1: 11 x 11 - 1/3; ZDT2: 11 x 11 - 2/3;
# ZDT3: 128.778... (Zitzler and others' front, value of BoTorch's test functions).
@pytest.mark.parametrize(
    ("number", "published"), [(1, 120.6666666667), (2, 120.3333333333), (3, 128.7781)]
)
def test_zdt(number: int, published: float) -> None:
    found = hypervolume(zdt(number), np.array([11.0, 11.0]))
    assert found == pytest.approx(published, rel=1e-4)


def test_dtlz2_of_two_objectives() -> None:
    """DTLZ2 (Deb and others, 2002): a quarter of a circle, reference 1.1."""
    angle = np.linspace(0, math.pi / 2, 20_000)
    found = hypervolume(np.column_stack([np.cos(angle), np.sin(angle)]), np.full(2, 1.1))
    assert found == pytest.approx(1.21 - math.pi / 4, rel=1e-4)


def test_dtlz2_of_three_objectives() -> None:
    """An eighth of a sphere; what a grid of n x n points leaves out shrinks as 1 / n."""

    def of_grid(n: int) -> float:
        u = (np.arange(n) + 0.5) / n
        first, second = (grid.ravel() for grid in np.meshgrid(u, u * math.pi / 2))
        ring = np.sqrt(1 - first**2)
        sphere = np.column_stack([first, ring * np.cos(second), ring * np.sin(second)])
        return hypervolume(sphere, np.full(3, 1.1))

    published = 1.331 - math.pi / 6
    assert of_grid(15) < of_grid(30) < published
    assert 2 * of_grid(30) - of_grid(15) == pytest.approx(published, rel=0.005)


def test_branin_currin() -> None:
    """Branin-Currin (Belakaria, Deshwal and Doppa, 2019), reference (18, 6)."""
    # Currin's function falls to its end within the last thousandth of the way.
    a, b = (g.ravel() for g in np.meshgrid(np.linspace(0, 1, 2_000), np.linspace(0, 1, 500) ** 3))
    x, y = 15 * a - 5, 15 * b
    branin = (y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6) ** 2
    branin += 10 * (1 - 1 / (8 * math.pi)) * np.cos(x) + 10
    with np.errstate(divide="ignore", over="ignore"):
        factor = 1 - np.exp(-1 / (2 * b))
    currin = factor * (2300 * a**3 + 1900 * a**2 + 2092 * a + 60)
    currin /= 100 * a**3 + 500 * a**2 + 4 * a + 20
    points = np.column_stack([branin, currin])
    order = np.argsort(points[:, 0], kind="stable")
    points = points[order]
    best_before = np.minimum.accumulate(np.r_[np.inf, points[:-1, 1]])
    front = points[points[:, 1] < best_before]
    found = hypervolume(front, np.array([18.0, 6.0]))
    assert found == pytest.approx(59.36011874867746, rel=2e-3)


@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("k", [1, 10, 100])
@pytest.mark.parametrize("has_ties", [False, True])
def test_gain_equals_a_million_samples(k: int, m: int, has_ties: bool) -> None:
    scores, costs = random_front(k, m, seed=k)
    if has_ties:
        scores, costs = np.r_[scores, scores].round(1), np.r_[costs, costs].round(1)
    generator = np.random.default_rng([k, m])
    candidate = generator.uniform(0, 0.4, m)
    mean, sd = 0.8, 0.25
    y = mean + sd * generator.standard_normal(1_000_000)
    # Cells of the grid through all members, each with the best score that its corner can buy.
    ends = [np.unique(np.r_[candidate[j], costs[:, j], 1.0]) for j in range(m)]
    ends = [e[(e >= candidate[j]) & (e <= 1.0)] for j, e in enumerate(ends)]
    corners = np.stack(np.meshgrid(*[e[:-1] for e in ends], indexing="ij"), -1).reshape(-1, m)
    sizes = np.stack(np.meshgrid(*[np.diff(e) for e in ends], indexing="ij"), -1).reshape(-1, m)
    affordable = np.all(costs[None] <= corners[:, None], axis=2) & np.all(costs < 1.0, axis=1)
    levels = np.maximum(np.where(affordable, scores, -np.inf).max(axis=1), 0.0)
    volumes = sizes.prod(axis=1)
    distinct, place = np.unique(levels, return_inverse=True)
    weights = np.bincount(place, volumes)
    gains = sum(w * np.maximum(y - level, 0.0) for w, level in zip(weights, distinct, strict=True))
    expected = float(np.mean(gains))
    partition = LevelPartition.of(scores, costs, 0.0, np.ones(m))
    closed = math.exp(
        log_expected_hypervolume_improvement(
            np.array([mean]), np.array([sd]), candidate[None], partition
        )[0]
    )
    assert closed == pytest.approx(expected, rel=0.01)
