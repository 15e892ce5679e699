"""From the states of a job to what the surrogate is fitted to."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft.records import Measurement, Trial, TrialState, TrialStatus
from autopeft.surrogates.curves import (
    MAX_POINTS,
    CurveModel,
    RungLines,
    ScoreWarp,
    _chosen_measurements,
    has_measurements,
)
from tests.proposers.synthetic_job import Landscape, default_landscape, measurement


@pytest.fixture(scope="module")
def landscape() -> Landscape:
    return default_landscape()


def make_states(
    landscape: Landscape, curves: list[dict[int, float]], status: TrialStatus
) -> list[TrialState]:
    """Return one trial for each curve."""
    members = landscape.space.sample(len(curves), np.random.default_rng(3))
    costs = landscape.costs(members)
    states = []
    for number, (configuration, cost, curve) in enumerate(zip(members, costs, curves, strict=True)):
        trial = Trial(
            number=number, configuration=configuration, seed=0, origin="random", costs=cost
        )
        rows: tuple[Measurement, ...] = tuple(
            measurement(number, step, score) for step, score in curve.items()
        )
        states.append(TrialState(trial=trial, status=status, curve=rows))
    return states


scores = st.lists(st.floats(-1e3, 1e3).map(lambda v: round(v, 3)), min_size=1, max_size=30)


@given(values=scores)
def test_warp_is_increasing(values: list[float]) -> None:
    warp = ScoreWarp.fit(np.array(values))
    grid = np.unique(np.concatenate([values, np.linspace(-1e3, 1e3, 50)]).round(3))
    warped = warp(grid)
    assert np.all(np.isfinite(warped))
    assert np.all(np.diff(warped) > 0)


def test_one_terrible_score_does_not_bend_the_others() -> None:
    good = np.linspace(0.80, 0.90, 20)
    warped = ScoreWarp.fit(np.append(good, -50.0))(np.append(good, -50.0))
    assert warped[-1] > -12
    assert np.ptp(warped[:-1]) > 2


@pytest.mark.parametrize("values", [[], [0.7], [0.7, 0.7, 0.7]])
def test_constant_scores_have_unit_scale(values: list[float]) -> None:
    assert ScoreWarp.fit(np.array(values)).scale == 1.0


def test_lines_carry_early_scores_to_the_end() -> None:
    finals = np.linspace(0.6, 0.9, 40)
    curves = [{24: 0.5 + (f - 0.5) / 2, 96: float(f)} for f in finals]
    lines = RungLines.fit(curves)
    carried = [lines(curve[24], 24) for curve in curves]
    np.testing.assert_allclose(carried, finals, atol=0.02)
    assert lines(0.7, 96) == 0.7
    assert lines(0.7, 12) == lines(0.7, 24)


@given(
    finals=st.lists(st.floats(0, 1), max_size=6),
    earlier=st.lists(st.floats(0, 1), max_size=8),
    pair=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_lines_keep_order(
    finals: list[float], earlier: list[float], pair: tuple[float, float]
) -> None:
    curves = [{16: a, 96: b} for a, b in zip(earlier, finals, strict=False)]
    curves += [{16: a} for a in earlier[len(finals) :]]
    lines = RungLines.fit(curves)
    low, high = sorted(pair)
    assert lines(low, 16) <= lines(high, 16)
    assert math.isfinite(lines(low, 16))


def test_broken_trials_and_unfinite_scores_say_nothing(landscape: Landscape) -> None:
    diverged = make_states(landscape, [{16: 0.9}], TrialStatus.DIVERGED)
    nan = make_states(landscape, [{16: math.nan}], TrialStatus.STOPPED)
    assert not has_measurements([*diverged, *nan])
    with pytest.raises(ValueError, match="no trial has a finite measurement"):
        CurveModel(landscape.space, [*diverged, *nan], max_steps=96)


def test_the_last_two_measurements_enter_the_newest_last(landscape: Landscape) -> None:
    curve = {16: 0.5, 48: 0.6, 96: 0.7}
    states = make_states(landscape, [curve, {16: 0.4}], TrialStatus.STOPPED)
    assert _chosen_measurements(states) == [(0, 48, 0.6), (0, 96, 0.7), (1, 16, 0.4)]


def test_points_are_capped_and_the_best_trials_stay(landscape: Landscape) -> None:
    curves = [{48: 0.1, 96: 1.0 - i / 1000} for i in range(MAX_POINTS + 100)]
    chosen = _chosen_measurements(make_states(landscape, curves, TrialStatus.COMPLETED))
    numbers = {number for number, _, _ in chosen}
    assert len(chosen) == MAX_POINTS
    assert set(range(MAX_POINTS // 2)) <= numbers
    assert MAX_POINTS + 99 in numbers


def test_the_order_of_states_does_not_matter(landscape: Landscape) -> None:
    curves = [{16: 0.5 + i / 100, 96: 0.7 + i / 50} for i in range(6)]
    states = make_states(landscape, curves, TrialStatus.COMPLETED)
    new = landscape.space.sample(5, np.random.default_rng(8))
    means = []
    for order in (states, states[::-1]):
        model = CurveModel(landscape.space, order, max_steps=96)
        means.append(model.process.predict(model.points_untried(new))[0])
    np.testing.assert_array_equal(means[0], means[1])
