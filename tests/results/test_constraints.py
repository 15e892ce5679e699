"""Constraints: who is feasible, who is on the front, what is said of the others."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from autopeft.records import TrialState, TrialStatus
from autopeft.results.front import Constraint, ObjectiveScale, pareto_front
from tests.results.jobs import SCALE, make_measurement, make_trial


def state(number: int, score: float, *, parameters: int = 1000, **metrics: float) -> TrialState:
    measurement = make_measurement(number, 96, score)
    measurement = replace(measurement, metrics={**measurement.metrics, **metrics})
    return TrialState(
        trial=make_trial(number, parameters=parameters),
        status=TrialStatus.COMPLETED,
        curve=(measurement,),
    )


def limited(*constraints: Constraint) -> ObjectiveScale:
    return replace(SCALE, constraints=constraints)


@pytest.mark.parametrize(
    ("value", "allowed"), [(1.0, False), (2.0, True), (3.0, True), (4.0, True), (4.1, False)]
)
def test_limits_are_inclusive(value: float, allowed: bool) -> None:
    assert Constraint(name="x", minimum=2.0, maximum=4.0).allows(value) is allowed


@pytest.mark.parametrize("value", [None, math.nan])
def test_what_is_not_known_is_allowed(value: float | None) -> None:
    assert Constraint(name="x", maximum=4.0).allows(value)


def test_a_trial_over_a_known_limit_is_not_on_the_front() -> None:
    scale = limited(Constraint(name="num_trainable_parameters", maximum=2000))
    states = [state(0, 0.9, parameters=5000), state(1, 0.8), state(2, 0.7)]
    assert [s.trial.number for s in pareto_front(states, scale)] == [1]
    assert [s.trial.number for s in pareto_front(states, SCALE)] == [0, 1]


def test_a_winner_that_forgets_is_not_on_the_front() -> None:
    scale = limited(Constraint(name="retention", maximum=0.05))
    states = [state(0, 0.9, retention=0.2), state(1, 0.8, retention=0.01)]
    assert [s.trial.number for s in pareto_front(states, scale)] == [1]
    assert scale.broken_constraints(states[0]) == ["retention is 0.2, asked is retention <= 0.05"]


def test_the_metric_can_be_limited() -> None:
    scale = limited(Constraint(name="accuracy", minimum=0.85))
    states = [state(0, 0.9, parameters=5000), state(1, 0.8)]
    assert [s.trial.number for s in pareto_front(states, scale)] == [0]


def test_retention_as_an_objective_keeps_what_forgets_least() -> None:
    scale = replace(SCALE, cost_names=("retention",), cost_ideal=(0.0,), cost_reference=(1.0,))
    states = [state(0, 0.9, retention=0.3), state(1, 0.8, retention=0.01), state(2, 0.7)]
    assert [s.trial.number for s in pareto_front(states, scale)] == [0, 1]


def test_allows_looks_at_known_costs_alone() -> None:
    scale = limited(
        Constraint(name="accuracy", minimum=0.99),
        Constraint(name="retention", maximum=0.01),
        Constraint(name="train_memory_bytes", maximum=100),
    )
    trial = make_trial(0)
    assert not scale.allows(trial.costs)
    assert scale.allows(replace(trial.costs, train_memory_bytes=100))


def test_a_scale_with_constraints_survives_json() -> None:
    scale = limited(
        Constraint(name="retention", maximum=0.1), Constraint(name="accuracy", minimum=0.2)
    )
    assert ObjectiveScale.from_json(scale.to_json()) == scale
