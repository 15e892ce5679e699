"""The factor between measured and predicted memory."""

from __future__ import annotations

import math
from typing import Any

import pytest

from autopeft.records import MeasuredMemory, TrialState, TrialStatus
from autopeft.results.calibration import (
    PRIOR_TRIALS,
    Calibration,
    calibrated,
    calibration_of,
    expected_bytes,
    measured_memory,
    memory_ratio,
)
from tests.results.jobs import make_measurement, make_trial

PREDICTED = 1000


def state(number: int, *measured: int | None, kind: Any = "accounted") -> TrialState:
    curve = tuple(
        make_measurement(
            number,
            step,
            0.5,
            memory_bytes=peak,
            memory=None
            if peak is None
            else MeasuredMemory(kind=kind, peak_bytes=peak, base_bytes=7),
        )
        for step, peak in enumerate(measured, start=1)
    )
    trial = make_trial(number, memory=PREDICTED)
    return TrialState(trial=trial, status=TrialStatus.COMPLETED, curve=curve)


def test_nothing_measured_changes_nothing() -> None:
    assert calibration_of([]) == calibration_of([state(0), state(1, None)]) == Calibration()
    assert calibrated([], [123.0]) == [123]


@pytest.mark.parametrize("num_trials", [1, 4, 40])
def test_factor_follows_the_stated_formula(num_trials: int) -> None:
    found = calibration_of(state(number, 1200) for number in range(num_trials))
    expected = math.exp(num_trials / (num_trials + PRIOR_TRIALS) * math.log(1.2))
    assert found.factor == pytest.approx(expected, rel=1e-12)
    assert found.median_ratio == pytest.approx(1.2)
    assert (found.num_trials, found.kind) == (num_trials, "accounted")
    assert found(PREDICTED) == round(expected * PREDICTED)


def test_one_wild_trial_does_not_move_the_median() -> None:
    states = [state(number, 1100) for number in range(4)]
    assert calibration_of([*states, state(4, 90_000)]).median_ratio == pytest.approx(1.1)


def test_the_highest_segment_counts() -> None:
    measured = state(0, 900, None, 1300, 1000)
    memory = measured_memory(measured)
    assert memory is not None
    assert memory.peak_bytes == 1300
    assert memory_ratio(measured) == pytest.approx(1.3)
    assert expected_bytes(measured, Calibration(factor=2.0)) == 1300
    assert expected_bytes(state(1), Calibration(factor=2.0)) == 2 * PREDICTED


def test_kinds_do_not_mix() -> None:
    states = [state(number, 500) for number in range(9)]
    found = calibration_of([*states, state(9, 1500, kind="cuda")])
    assert (found.kind, found.num_trials) == ("cuda", 1)
    assert found.median_ratio == pytest.approx(1.5)


def test_figures_of_old_logs_were_of_gpus() -> None:
    old = TrialState(
        trial=make_trial(0, memory=PREDICTED),
        status=TrialStatus.COMPLETED,
        curve=(make_measurement(0, 1, 0.5, memory_bytes=1100),),
    )
    assert calibration_of([old]).kind == "cuda"
    assert measured_memory(old) is None
