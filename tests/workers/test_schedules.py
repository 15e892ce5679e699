"""The learning rate of each step, of the trial and of the branch that a rung is scored on."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from autopeft.workers.schedules import branch_factor, learning_rate_factor, num_branch_steps
from autopeft.workers.settings import TrainingSettings

SETTINGS = TrainingSettings(batch_size=8, steps=10, warmup_fraction=0.2)
WSD = SETTINGS.model_copy(update={"schedule": "wsd", "decay_fraction": 0.3})


def test_cosine_warms_up_and_falls_to_nothing() -> None:
    factors = [learning_rate_factor(step, SETTINGS) for step in range(10)]
    cosine = [0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]

    assert factors == pytest.approx([1 / 3, 2 / 3, *cosine])


def test_linear_falls_in_a_line() -> None:
    settings = SETTINGS.model_copy(update={"schedule": "linear", "warmup_fraction": 0.0})

    assert [learning_rate_factor(step, settings) for step in (0, 5, 9)] == pytest.approx(
        [1.0, 0.5, 0.1]
    )


def test_constant_stays() -> None:
    settings = SETTINGS.model_copy(update={"schedule": "constant"})

    assert [learning_rate_factor(step, settings) for step in (2, 5, 9)] == [1.0, 1.0, 1.0]


def test_wsd_stays_and_falls_by_a_square_root() -> None:
    factors = [learning_rate_factor(step, WSD) for step in range(10)]
    fall = [1 - math.sqrt(k / 4) for k in (1, 2, 3)]

    assert factors == pytest.approx([1 / 3, 2 / 3, *[1.0] * 5, *fall])


def test_wsd_never_falls_during_its_warm_up() -> None:
    settings = WSD.model_copy(update={"warmup_fraction": 0.5, "decay_fraction": 1.0})
    factors = [learning_rate_factor(step, settings) for step in range(10)]

    assert factors[:5] == pytest.approx([k / 6 for k in range(1, 6)])
    assert factors[5:] == pytest.approx([1 - math.sqrt(k / 6) for k in range(1, 6)])


@pytest.mark.parametrize(
    ("step", "expected"), [(1, 2), (20, 2), (21, 3), (50, 5), (97, 3), (99, 1), (100, 0)]
)
def test_branches_are_a_tenth_of_the_steps_done(step: int, expected: int) -> None:
    assert num_branch_steps(step, WSD.model_copy(update={"steps": 100})) == expected


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_other_schedules_have_no_branches(schedule: str) -> None:
    assert num_branch_steps(5, SETTINGS.model_copy(update={"schedule": schedule})) == 0


def test_a_branch_falls_from_where_the_trial_stands() -> None:
    settings = WSD.model_copy(update={"branch_fraction": 0.5})
    stable = [branch_factor(step, settings, start=4) for step in (4, 5)]
    falling = [branch_factor(step, settings, start=8) for step in (8, 9)]
    fall = [1 - math.sqrt(k / 3) for k in (1, 2)]

    assert stable == pytest.approx(fall)
    assert falling == pytest.approx([(1 - math.sqrt(2 / 4)) * each for each in fall])


@given(
    steps=st.integers(1, 500),
    warmup=st.floats(0.0, 0.99),
    part=st.floats(0.01, 1.0),
    schedule=st.sampled_from(["cosine", "linear", "constant", "wsd"]),
    data=st.data(),
)
def test_learning_rate_is_positive_and_at_most_the_peak(
    steps: int, warmup: float, part: float, schedule: Any, data: st.DataObject
) -> None:
    settings = TrainingSettings(
        steps=steps,
        warmup_fraction=warmup,
        schedule=schedule,
        decay_fraction=part,
        branch_fraction=part,
    )
    step = data.draw(st.integers(0, steps - 1))

    assert 0.0 < learning_rate_factor(step, settings) <= 1.0
    num_branch = num_branch_steps(step, settings) if step else 0
    factors = [branch_factor(step + k, settings, start=step) for k in range(num_branch)]
    assert step + num_branch <= steps
    assert all(0.0 < factor < 1.0 for factor in factors)
    assert factors == sorted(factors, reverse=True)


def test_an_average_and_a_fall_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="averaging is tail and the schedule is wsd"):
        TrainingSettings(schedule="wsd", averaging="tail")
