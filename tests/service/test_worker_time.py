"""The cap on worker time, with a clock that is set by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopeft.records import Costs, Segment, Trial
from autopeft.service import running
from autopeft.service.job_spec import JobSpec
from autopeft.service.jobs import open_job
from autopeft.service.observer import SilentObserver
from autopeft.service.running import resume_job, run_job
from autopeft.service.segment_costs import SegmentCosts, Timed
from autopeft.service.worker_time import WorkerTime
from tests.service.fake_job import FakeJob, KilledError, make_spec
from tests.service.test_quote import configuration, timing

SILENT = SilentObserver()


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def segment(steps: int = 8) -> Segment:
    costs = Costs(num_trainable_parameters=1, num_adapter_parameters=1, train_memory_bytes=1)
    trial = Trial(number=0, configuration=configuration(1e-3), seed=0, origin="", costs=costs)
    return Segment(trial=trial, from_step=0, to_step=steps)


def capped(tmp_path: Path, hours: float) -> JobSpec:
    return make_spec(tmp_path / "job", budget={"trials": 6, "gpu_hours": hours})


def worker_time(spec: JobSpec, clock: Clock, spent: float = 0.0) -> WorkerTime:
    # 8 steps are expected to take 5 seconds, and may take 7.5.
    return WorkerTime(spec, SegmentCosts([timing(1e-3, 0.5)]), lambda: spent, clock=clock)


@pytest.mark.parametrize(("hours", "fits"), [(7.4 / 3600, False), (7.6 / 3600, True)])
def test_a_segment_must_fit_with_its_margin(tmp_path: Path, hours: float, fits: bool) -> None:
    time = worker_time(capped(tmp_path, hours), Clock())

    assert time.fits(segment()) is fits
    assert time.has_refused is not fits


def test_what_is_spent_and_what_runs_count(tmp_path: Path) -> None:
    clock = Clock()
    time = worker_time(capped(tmp_path, 20 / 3600), clock, spent=4.0)
    assert time.fits(segment())
    time.begin(segment())
    # 4 are spent, 7.5 under way, and 12 steps may take 10.5.
    assert not time.fits(segment(12))
    clock.now += 16
    assert time.is_over
    assert time.wait_seconds(1.0) == 0.0
    assert time.end(0) == pytest.approx(16)


def test_unknown_costs_never_fit(tmp_path: Path) -> None:
    time = WorkerTime(capped(tmp_path, 1.0), SegmentCosts(), lambda: 0.0, clock=Clock())
    assert not time.fits(segment())


def test_without_a_cap_everything_fits(tmp_path: Path) -> None:
    time = WorkerTime(make_spec(tmp_path / "job"), SegmentCosts(), lambda: 1e9, clock=Clock())
    assert time.fits(segment())
    assert not time.is_over


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> FakeJob:
    return FakeJob(monkeypatch)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Timed(timings=(timing(1e-3, 0.1, 0.2),), startup_seconds=0.0, busy_seconds=1.0)
    monkeypatch.setattr(running, "time_segments", lambda *args, **options: told)


def test_a_job_stops_where_nothing_fits_and_says_so(
    job: FakeJob, timed: None, tmp_path: Path
) -> None:
    spec = make_spec(tmp_path / "job", budget={"trials": 6, "gpu_hours": 1.5 / 3600})
    log = run_job(spec, tmp_path / "job", observer=SILENT)

    assert log.end_reason is not None
    assert log.end_reason.startswith("the budget of 0.000416667 worker-hours is spent (0.000")
    assert log.busy_seconds <= 1.5
    assert len(log.states) < 6


def test_a_larger_cap_goes_on_from_what_was_counted(
    job: FakeJob, timed: None, tmp_path: Path
) -> None:
    spec = make_spec(tmp_path / "job", budget={"trials": 6, "gpu_hours": 1.5 / 3600})
    before = run_job(spec, tmp_path / "job", observer=SILENT)
    after = resume_job(tmp_path / "job", observer=SILENT, budget={"gpu_hours": 1.0})

    assert after.end_reason == "the budget of 6 trials is spent"
    assert after.busy_seconds >= before.busy_seconds >= 1.0


def test_a_segment_lost_with_its_driver_is_counted_once(
    job: FakeJob, timed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(tmp_path / "job", stopper="halving", budget={"trials": 2, "gpu_hours": 1.0})
    job.kill_after(5)  # job, prepared, timing, proposal, segment
    with pytest.raises(KilledError):
        run_job(spec, tmp_path / "job", observer=SILENT)
    assert len(open_job(tmp_path / "job").unfinished) == 1
    job.live()
    log = resume_job(tmp_path / "job", observer=SILENT)

    # The lost one: 8 steps of 0.1 s and 0.2 s, with the first margin of a half.
    assert log.busy_seconds == pytest.approx(1.0 + 1.5, abs=0.4)
    assert log.end_reason == "the budget of 2 trials is spent"
