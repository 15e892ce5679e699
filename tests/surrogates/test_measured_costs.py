"""Costs that only training tells: filled in where known, predicted where not."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from autopeft.records import RETENTION, TRAIN_SECONDS, Costs, TrialState, TrialStatus
from autopeft.results.front import Constraint, ObjectiveScale, comparable
from autopeft.search_spaces.configuration import Configuration
from autopeft.surrogates.gaussian_process import Points
from autopeft.surrogates.measured_costs import MeasuredCosts
from tests.proposers.contract import state_of
from tests.proposers.synthetic_job import MAX_STEPS, Landscape, default_landscape


@pytest.fixture(scope="module")
def landscape() -> Landscape:
    return default_landscape()


def seconds_of(landscape: Landscape, configuration: Configuration) -> float:
    """Return made-up seconds that grow with the number of adapted layers."""
    layers = {layer for module in configuration.modules for layer in module.layers}
    return 10.0 * math.exp(0.3 * len(layers))


def scale_with(landscape: Landscape, *names: str, **changes: object) -> ObjectiveScale:
    scale = landscape.scale()
    return replace(
        scale,
        cost_names=names,
        cost_ideal=tuple(1.0 for _ in names),
        cost_reference=tuple(1e6 for _ in names),
        **changes,  # type: ignore[arg-type]
    )


def measured_states(landscape: Landscape, n: int, *, last: int = MAX_STEPS) -> list[TrialState]:
    states = []
    for number, configuration in enumerate(landscape.space.sample(n, np.random.default_rng(4))):
        proposal = replace(landscape.space.portfolio()[0], configuration=configuration)
        state = state_of(landscape, number, proposal, TrialStatus.COMPLETED, (24, last))
        seconds = seconds_of(landscape, configuration) * last / MAX_STEPS
        newest = state.curve[-1]
        metrics = {**newest.metrics, TRAIN_SECONDS: seconds, RETENTION: 0.02}
        curve = (*state.curve[:-1], replace(newest, metrics=metrics))
        states.append(replace(state, curve=curve))
    return states


def test_without_measured_costs_everything_passes_through(landscape: Landscape) -> None:
    states = measured_states(landscape, 6)
    measured = MeasuredCosts(landscape.space, landscape.scale(), states, max_steps=MAX_STEPS)
    candidates = landscape.space.sample(5, np.random.default_rng(9))
    costs = landscape.costs(candidates)
    assert measured.of_candidates(candidates, costs) == costs
    assert np.all(measured.log_feasible(Points.untried(landscape.space.encode(candidates))) == 0)


def test_what_was_measured_is_kept(landscape: Landscape) -> None:
    states = measured_states(landscape, 6)
    scale = scale_with(landscape, "num_trainable_parameters", TRAIN_SECONDS)
    filled = MeasuredCosts(landscape.space, scale, states, max_steps=MAX_STEPS).of_states(states)
    expected = [seconds_of(landscape, state.trial.configuration) for state in states]
    assert [cost.train_seconds for cost in filled] == pytest.approx(expected)


def test_seconds_of_an_unfinished_trial_are_carried_on(landscape: Landscape) -> None:
    (state,) = measured_states(landscape, 1, last=48)
    scale = scale_with(landscape, TRAIN_SECONDS)
    (cost,) = MeasuredCosts(landscape.space, scale, [state], max_steps=96).of_states([state])
    assert cost.train_seconds == pytest.approx(seconds_of(landscape, state.trial.configuration))


def test_predictions_learn_from_what_was_measured(landscape: Landscape) -> None:
    states = measured_states(landscape, 40)
    scale = scale_with(landscape, TRAIN_SECONDS)
    measured = MeasuredCosts(landscape.space, scale, states, max_steps=MAX_STEPS)
    candidates = landscape.space.sample(60, np.random.default_rng(77))
    predicted = [
        cost.train_seconds or math.nan
        for cost in measured.of_candidates(candidates, landscape.costs(candidates))
    ]
    true = [seconds_of(landscape, configuration) for configuration in candidates]
    correlation = np.corrcoef(np.log(predicted), np.log(true))[0, 1]
    assert correlation > 0.7


def test_few_measurements_give_their_mean(landscape: Landscape) -> None:
    states = measured_states(landscape, 2)
    scale = scale_with(landscape, TRAIN_SECONDS)
    measured = MeasuredCosts(landscape.space, scale, states, max_steps=MAX_STEPS)
    candidates = landscape.space.sample(3, np.random.default_rng(1))
    found = measured.of_candidates(candidates, landscape.costs(candidates))
    logs = comparable(TRAIN_SECONDS, [state.costs.train_seconds for state in states])
    assert [cost.train_seconds for cost in found] == pytest.approx([math.exp(logs.mean())] * 3)


def test_a_limit_below_all_that_was_measured_is_unlikely_to_be_kept(landscape: Landscape) -> None:
    states = measured_states(landscape, 12)
    points = Points.untried(
        landscape.space.encode(landscape.space.sample(8, np.random.default_rng(3)))
    )

    def log_feasible(limit: float) -> float:
        constraint = Constraint(name=TRAIN_SECONDS, maximum=limit)
        scale = scale_with(landscape, constraints=(constraint,))
        measured = MeasuredCosts(landscape.space, scale, states, max_steps=MAX_STEPS)
        return float(measured.log_feasible(points).max())

    assert log_feasible(0.5) < math.log(0.05)
    assert log_feasible(1e5) > math.log(0.95)


@pytest.mark.parametrize("value", [-0.3, 0.0, 0.0004])
def test_a_gain_of_retention_compares_as_no_loss(value: float) -> None:
    assert comparable(RETENTION, [value])[0] == 0.0


def test_what_was_not_measured_counts_as_the_worst() -> None:
    unknown, bad = comparable(RETENTION, [None, 0.9])
    assert unknown > bad
    assert comparable(TRAIN_SECONDS, [math.nan])[0] > comparable(TRAIN_SECONDS, [3600.0])[0]


def test_costs_of_a_state_take_the_latest_measurement(landscape: Landscape) -> None:
    (state,) = measured_states(landscape, 1)
    assert state.costs == replace(
        state.trial.costs,
        train_seconds=seconds_of(landscape, state.trial.configuration),
        retention=0.02,
    )
    assert "retention" not in state.trial.costs.to_json()
    assert Costs(**state.costs.to_json()) == state.costs


def test_costs_not_measured_yet_are_drawn_from_their_posterior(landscape: Landscape) -> None:
    states = measured_states(landscape, 12)
    scale = scale_with(landscape, "num_trainable_parameters", TRAIN_SECONDS)
    measured = MeasuredCosts(landscape.space, scale, states, max_steps=MAX_STEPS)
    candidates = landscape.space.sample(5, np.random.default_rng(9))
    points = Points.untried(landscape.space.encode(candidates))
    costs = landscape.costs(candidates)
    normals = np.column_stack([np.full(3, 99.0), [-1.0, 0.0, 1.0]])
    drawn = measured.sampled(points, costs, normals)
    assert drawn.shape == (3, 5, 2)
    np.testing.assert_array_equal(drawn[0, :, 0], drawn[2, :, 0])
    assert np.all(np.diff(drawn[:, :, 1], axis=0) > 0)
    middle = comparable(TRAIN_SECONDS, [c.train_seconds for c in measured.of_points(points, costs)])
    np.testing.assert_allclose(drawn[1, :, 1], middle, atol=0.06)  # rounded to their resolution


def test_known_costs_are_not_drawn(landscape: Landscape) -> None:
    states = measured_states(landscape, 12)
    scale = scale_with(landscape, "num_trainable_parameters", TRAIN_SECONDS)
    measured = MeasuredCosts(landscape.space, scale, states, max_steps=MAX_STEPS)
    points = Points.untried(landscape.space.encode([s.trial.configuration for s in states]))
    drawn = measured.sampled(points, measured.known(states), np.ones((4, 2)))
    np.testing.assert_array_equal(drawn, scale.costs(measured.of_states(states))[None])
