from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from autopeft.results.front import ObjectiveScale
from autopeft.results.hypervolume import (
    benefits,
    dominated_volume,
    front_hypervolume,
    hypervolume,
)
from tests.results.jobs import SCALE, example_job

with warnings.catch_warnings():
    # linear_operator decorates functions with a deprecated torch.jit.script as it is imported.
    warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
    from botorch.utils.multi_objective.hypervolume import Hypervolume
    from botorch.utils.multi_objective.pareto import is_non_dominated

Points = NDArray[np.float64]


def unit_scale(num_costs: int) -> ObjectiveScale:
    """Scores and log costs in [0, 1] as they are."""
    names = ("num_trainable_parameters", "train_memory_bytes", "num_adapter_parameters")
    return ObjectiveScale(
        metric="accuracy",
        cost_names=names[:num_costs],
        score_reference=0.0,
        score_ideal=1.0,
        cost_ideal=(1.0,) * num_costs,
        cost_reference=(math.e,) * num_costs,
    )


def by_inclusion_and_exclusion(points: Points) -> float:
    """Volume of a union of boxes from the origin; exact, exponential in the points."""
    total = 0.0
    for size in range(1, len(points) + 1):
        for chosen in itertools.combinations(points, size):
            total += (-1.0) ** (size + 1) * float(np.prod(np.min(chosen, axis=0)))
    return total


def point_sets(dimensions: int, most: int = 6) -> st.SearchStrategy[Points]:
    values = st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0.0, 1.0)
    return st.integers(0, most).flatmap(
        lambda n: hnp.arrays(np.float64, (n, dimensions), elements=values)
    )


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
def test_agrees_with_brute_force(dimensions: int) -> None:
    @settings(max_examples=30)
    @given(points=point_sets(dimensions))
    def check(points: Points) -> None:
        expected = by_inclusion_and_exclusion(points)
        assert dominated_volume(points) == pytest.approx(expected, abs=1e-12)

    check()


@pytest.mark.parametrize("dimensions", [2, 3, 4])
@pytest.mark.parametrize("n", [1, 7, 40])
def test_agrees_with_botorch(dimensions: int, n: int) -> None:
    points = np.random.default_rng([dimensions, n]).random((n, dimensions))
    tensor = torch.tensor(points, dtype=torch.float64)
    oracle = Hypervolume(ref_point=torch.zeros(dimensions, dtype=torch.float64))
    expected = oracle.compute(tensor[is_non_dominated(tensor)])
    assert dominated_volume(points) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("num_costs", [0, 1, 2, 3])
def test_grows_with_every_point_and_every_improvement(num_costs: int) -> None:
    scale = unit_scale(num_costs)

    @settings(max_examples=30)
    @given(points=point_sets(1 + num_costs), other=point_sets(1 + num_costs, 1))
    def check(points: Points, other: Points) -> None:
        def volume(points: Points) -> float:
            return hypervolume(points[:, 0], 1.0 - points[:, 1:], scale)

        alone, more = volume(points), volume(np.vstack([points, other]))
        better = volume(np.minimum(1.0, points + 0.1))
        assert 0.0 <= alone <= more + 1e-12
        assert more <= 1.0 + 1e-12
        assert alone <= better + 1e-12
        assert volume(points[::-1]) == pytest.approx(alone, abs=1e-12)
        assert volume(np.vstack([points, points])) == pytest.approx(alone, abs=1e-12)

    check()


@pytest.mark.parametrize("num_costs", [0, 1, 2])
def test_the_ideal_fills_the_box_and_the_reference_nothing(num_costs: int) -> None:
    scale = unit_scale(num_costs)
    one, zero = np.ones(1), np.zeros(1)
    assert hypervolume(one, np.zeros((1, num_costs)), scale) == 1.0
    assert hypervolume(zero, np.ones((1, num_costs)), scale) == 0.0
    assert hypervolume(np.empty(0), np.empty((0, num_costs)), scale) == 0.0


def test_without_costs_it_is_the_normalised_best_score() -> None:
    scale = ObjectiveScale(
        metric="f1",
        cost_names=(),
        score_reference=0.2,
        score_ideal=0.7,
        cost_ideal=(),
        cost_reference=(),
    )
    scores = np.array([0.3, 0.45, math.nan, 0.1])
    assert hypervolume(scores, np.empty((4, 0)), scale) == pytest.approx(0.5, abs=1e-12)


def test_what_lies_outside_the_box_is_clipped() -> None:
    scale = unit_scale(1)
    beyond = hypervolume(np.array([1.7]), np.array([[-3.0]]), scale)
    worse = hypervolume(np.array([-1.0, 0.9]), np.array([[0.0], [2.0]]), scale)
    assert (beyond, worse) == (1.0, 0.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_points_that_are_not_finite_are_left_out(value: float) -> None:
    scale = unit_scale(1)
    scores, costs = np.array([0.5, value, 1.0]), np.array([[0.5], [0.0], [value]])
    assert hypervolume(scores, costs, scale) == pytest.approx(0.25, abs=1e-12)


def test_an_objective_without_extent_counts_all_or_nothing() -> None:
    scale = ObjectiveScale(
        metric="accuracy",
        cost_names=("num_trainable_parameters",),
        score_reference=0.0,
        score_ideal=1.0,
        cost_ideal=(1000.0,),
        cost_reference=(1000.0,),
    )
    costs = np.log([[1000.0], [1001.0]])
    assert benefits(np.array([0.5, 0.5]), costs, scale).tolist() == [[0.5, 1.0], [0.5, 0.0]]
    assert hypervolume(np.array([0.5, 0.9]), costs, scale) == 0.5


def test_of_a_job() -> None:
    """By hand: three boxes in (score, log parameters, log memory), each scaled to [0, 1]."""
    log = example_job().log
    volume = front_hypervolume(log.trials, SCALE)
    corners = []
    for score, parameters, mib in ((0.92, 900_000, 400), (0.90, 40_000, 220), (0.7, 2_000, 150)):
        steps = round(math.log(mib * 2**20) / math.log(1.01))
        memory = 1.01**steps
        corners.append(
            (
                (score - 0.5) / 0.5,
                math.log(1e7 / parameters) / math.log(1e4),
                math.log(1000 * 2**20 / memory) / math.log(10),
            )
        )
    assert volume == pytest.approx(by_inclusion_and_exclusion(np.array(corners)), abs=1e-12)


def test_a_job_without_a_completed_trial_has_none() -> None:
    assert front_hypervolume([], SCALE) == 0.0
