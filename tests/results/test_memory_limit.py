"""What is expected to fit into a limit, learned from trials that did and that did not."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from autopeft.records import MeasuredMemory, TrialState, TrialStatus
from autopeft.results.memory_limit import (
    PRIOR_COMMON,
    PRIOR_OF_METHODS,
    PRIOR_SPREAD,
    MemoryLimit,
    needed_bytes,
)
from autopeft.search_spaces.configuration import Configuration, Module
from tests.results.jobs import make_measurement, make_trial

LIMIT = 1000.0
OTHER = Configuration(modules=(Module.of("ia3", [0], sites=("k",)),), learning_rate=1e-3)


def trained(number: int, predicted: int, needed: int, **changes: object) -> TrialState:
    trial = replace(make_trial(number, memory=predicted), **changes)  # type: ignore[arg-type]
    curve = (make_measurement(number, 1, 0.5, memory_bytes=needed),)
    return TrialState(trial=trial, status=TrialStatus.COMPLETED, curve=curve)


def failed(number: int, predicted: int, least: int | None = None) -> TrialState:
    return TrialState(
        trial=make_trial(number, memory=predicted),
        status=TrialStatus.INFEASIBLE,
        num_failures=1,
        least_memory_bytes=least,
    )


def test_nothing_known_takes_predictions_as_they_are() -> None:
    limit = MemoryLimit.of([], LIMIT)
    trial = make_trial(0, memory=900)
    assert limit.expected_bytes(trial.configuration, trial.costs) == 900
    found = limit.log_probability([trial.configuration], [trial.costs])
    assert found[0] == pytest.approx(norm.logcdf(math.log(LIMIT / 900) / PRIOR_SPREAD))


def test_what_is_expected_to_need_more_has_no_chance() -> None:
    limit = MemoryLimit.of([], LIMIT)
    trials = [make_trial(0, memory=1000), make_trial(1, memory=1001)]
    found = limit.log_probability([t.configuration for t in trials], [t.costs for t in trials])
    assert found[0] == pytest.approx(math.log(0.5))
    assert found[1] == -np.inf
    assert [limit.fits(t.configuration, t.costs) for t in trials] == [True, False]


def test_measured_trials_move_the_factor_and_narrow_the_spread() -> None:
    states = [trained(number, 500, 600) for number in range(12)]
    limit = MemoryLimit.of(states, LIMIT)
    centre = 12 / (12 + (PRIOR_SPREAD / PRIOR_COMMON) ** 2) * math.log(1.2)
    assert limit.factor == pytest.approx(math.exp(centre))
    trial = make_trial(20, memory=500)
    # All of them train the same methods, whose own factor takes up most of the rest.
    assert limit.expected_bytes(trial.configuration, trial.costs) == pytest.approx(600, rel=0.01)
    assert limit.spread < PRIOR_SPREAD


def test_methods_that_need_more_are_told_apart() -> None:
    states = [trained(number, 500, 500) for number in range(8)]
    states += [trained(number, 500, 700, configuration=OTHER) for number in range(8, 12)]
    limit = MemoryLimit.of(states, LIMIT)
    costs = make_trial(0, memory=500).costs
    assert limit.expected_bytes(make_trial(0).configuration, costs) == pytest.approx(500, rel=0.02)
    assert limit.expected_bytes(OTHER, costs) == pytest.approx(700, rel=0.09)


def test_a_censored_trial_counts_as_its_bound() -> None:
    """Predicted 800, it needed more than the 1000 there are: at least a quarter more."""
    before = MemoryLimit.of([], LIMIT)
    after = MemoryLimit.of([failed(number, 800) for number in range(3)], LIMIT)
    trial = make_trial(9, memory=790)
    assert before.fits(trial.configuration, trial.costs)
    expected = after.expected_bytes(trial.configuration, trial.costs)
    part = 3 / (3 + (PRIOR_SPREAD / PRIOR_OF_METHODS) ** 2)
    assert expected == pytest.approx(790 * (1000 / 800) ** part, rel=1e-6)
    assert after.num_out_of_memory == 3


def test_the_worker_tells_more_than_the_limit() -> None:
    near = MemoryLimit.of([failed(0, 800, least=1600)], LIMIT)
    far = MemoryLimit.of([failed(0, 800)], LIMIT)
    trial = make_trial(9, memory=790)
    assert near.expected_bytes(trial.configuration, trial.costs) > far.expected_bytes(
        trial.configuration, trial.costs
    )


def test_a_failure_that_was_expected_teaches_nothing() -> None:
    limit = MemoryLimit.of([failed(0, 1500)], LIMIT)
    assert limit.factor == 1.0
    assert set(limit.by_methods.values()) == {1.0}


def test_what_was_never_sent_is_no_observation() -> None:
    held_back = replace(failed(0, 1500), num_failures=0)
    assert MemoryLimit.of([held_back], LIMIT).num_out_of_memory == 0


def test_on_a_gpu_what_the_allocator_holds_counts() -> None:
    memory = MeasuredMemory(kind="cuda", peak_bytes=600, base_bytes=7, reserved_bytes=750)
    state = trained(0, 500, 600)
    curve = (replace(state.curve[0], memory=memory),)
    assert needed_bytes(replace(state, curve=curve)) == 750
    assert needed_bytes(state) == 600


@pytest.mark.parametrize(("predicted", "is_near"), [(849, False), (900, True), (1177, False)])
def test_near_the_limit_predictions_are_checked(predicted: int, is_near: bool) -> None:
    trial = make_trial(0, memory=predicted)
    assert MemoryLimit.of([], LIMIT).is_near(trial.configuration, trial.costs) is is_near
