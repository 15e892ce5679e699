"""The quote: what is expected of segments, and the interval around their sum."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.service.quote import quote
from autopeft.service.segment_costs import SegmentCosts, Timed, Timing
from tests.service.fake_job import make_spec

RUNGS = (8, 16, 32)


def configuration(rate: float, method: str = "lora") -> Configuration:
    return Configuration(modules=(Module.of(method, (0,), rank=2),), learning_rate=rate)


def timing(rate: float, step: float, other: float = 1.0, **changes: Any) -> Timing:
    values = {"configuration": configuration(rate), "steps": 4, "train_seconds": 4 * step}
    return Timing(**{**values, "other_seconds": other, **changes})


def test_nothing_is_expected_where_nothing_is_known() -> None:
    assert math.isnan(SegmentCosts().expected(configuration(1e-3), 8, is_last=False))


def test_own_segments_count_before_all_others() -> None:
    costs = SegmentCosts([timing(1e-3, 0.5), timing(2e-3, 0.1)])

    assert costs.expected(configuration(1e-3), 8, is_last=False) == pytest.approx(8 * 0.5 + 1)
    other = configuration(3e-3, "ia3")
    assert costs.expected(other, 8, is_last=False) == pytest.approx(8 * 0.3 + 1)


def test_last_step_adds_what_it_measures() -> None:
    costs = SegmentCosts([timing(1e-3, 0.5), timing(1e-3, 0.5, other=6.0, is_last=True)])

    usual = costs.expected(configuration(1e-3), 8, is_last=False)
    assert costs.expected(configuration(1e-3), 8, is_last=True) == pytest.approx(usual + 5)


def test_margin_follows_the_errors() -> None:
    costs = SegmentCosts()
    first = costs.margin
    for _ in range(10):
        costs.add(timing(1e-3, 0.5), expected=3.0)

    assert costs.margin == pytest.approx(0.1)
    assert first > 0.1


def test_timed_survives_the_log() -> None:
    timed = Timed(timings=(timing(1e-3, 0.5),), startup_seconds=2.0, busy_seconds=5.0)

    assert Timed.from_json(timed.to_json()) == timed


def test_job_without_a_stopper_is_a_plain_product(tmp_path: Path) -> None:
    spec = make_spec(tmp_path / "job", **{"budget.trials": 10})
    told = quote(spec, (32,), [timing(1e-3, 0.5), timing(2e-3, 0.5)])

    assert told.hours == pytest.approx(10 * (32 * 0.5 + 1) / 3600, rel=0.02)
    assert told.low < told.hours < told.high
    assert (told.num_steps, told.num_full, told.unit) == (320, 10, "worker")
    assert str(told).startswith("about 0.0473 worker-hours (0.04")


def test_halving_costs_less_than_training_everything(tmp_path: Path) -> None:
    spec = make_spec(tmp_path / "job", **{"budget.trials": 24})
    timings = [timing(1e-3, 0.5), timing(2e-3, 0.7)]

    halving, everything = (quote(spec, rungs, timings) for rungs in (RUNGS, (32,)))

    assert halving.hours < everything.hours
    assert 24 * 8 < halving.num_steps < 24 * 32


@pytest.mark.parametrize(("limit", "most"), [({"gpu_hours": 0.01}, 0.01), ({"minutes": 0.6}, 0.01)])
def test_caps_bound_the_quote(tmp_path: Path, limit: dict[str, float], most: float) -> None:
    spec = make_spec(tmp_path / "job", budget={"trials": 500, **limit})
    told = quote(spec, RUNGS, [timing(1e-3, 0.5)])

    assert told.high <= most * (1 + 1e-9)
    assert told.is_cut
    assert told.num_trials < 500


def test_budget_in_steps_bounds_the_steps(tmp_path: Path) -> None:
    spec = make_spec(tmp_path / "job", budget={"steps": 320})
    told = quote(spec, RUNGS, [timing(1e-3, 0.5)])

    assert told.num_steps == pytest.approx(320, abs=20)


def test_gpus_are_what_is_counted(tmp_path: Path) -> None:
    spec = make_spec(tmp_path / "job", **{"workers.gpus": 0.5})
    whole = make_spec(tmp_path / "job", **{"workers.gpus": 1})
    half, one = (quote(each, RUNGS, [timing(1e-3, 0.5)]) for each in (spec, whole))

    assert half.unit == "GPU"
    assert half.hours == pytest.approx(one.hours / 2)
