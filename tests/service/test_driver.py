"""The driver's loop: what it records, in which order, and what survives its death."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autopeft.errors import DataError, InvalidJobError, JobFolderError
from autopeft.proposers.random import RandomProposer
from autopeft.records import FailureKind, Proposal, TrialStatus, count_statuses
from autopeft.results.front import Constraint
from autopeft.results.job_log import JobLog
from autopeft.results.sqlite_store import SqliteStore
from autopeft.results.store import Entry
from autopeft.service import preparation
from autopeft.service.job_spec import JobSpec
from autopeft.service.jobs import JobFolder, open_job
from autopeft.service.observer import SilentObserver
from autopeft.service.preparation import Workbench
from autopeft.service.running import resume_job, run_job
from tests.service.fake_job import STEPS, FakeJob, KilledError, make_spec

SILENT = SilentObserver()


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> FakeJob:
    return FakeJob(monkeypatch)


def entries_of(folder: Path) -> list[Entry]:
    store = SqliteStore(JobFolder(folder).log, read_only=True)
    try:
        return list(store.read())
    finally:
        store.close()


def outcome(log: JobLog) -> list[tuple[Any, ...]]:
    """Return what a job found, without clocks and run ids."""
    return [
        (state.trial, state.status, state.reason, [(m.step, m.score) for m in state.curve])
        for state in log.trials
    ]


def test_job_ends_when_its_trials_are_spent(job: FakeJob, tmp_path: Path) -> None:
    log = run_job(make_spec(tmp_path / "job"), tmp_path / "job", observer=SILENT)

    assert log.end_reason == "the budget of 6 trials is spent"
    assert len(log.states) == 6
    assert all(state.status.is_final for state in log.trials)
    assert sum(count_statuses(log.trials).values()) == 6
    assert open_job(tmp_path / "job").end_reason == log.end_reason


def test_every_proposal_is_recorded_before_its_first_segment(job: FakeJob, tmp_path: Path) -> None:
    run_job(make_spec(tmp_path / "job"), tmp_path / "job", observer=SILENT)

    seen: set[int] = set()
    for entry in entries_of(tmp_path / "job"):
        if entry.kind == "proposal":
            seen.add(entry.data["trial"])
        elif entry.kind == "segment":
            assert entry.data["trial"] in seen


def test_measurement_is_recorded_once_per_trial_and_step(job: FakeJob, tmp_path: Path) -> None:
    run_job(make_spec(tmp_path / "job"), tmp_path / "job", observer=SILENT)

    rows = [
        (entry.data["trial"], entry.data["step"])
        for entry in entries_of(tmp_path / "job")
        if entry.kind == "measurement"
    ]
    assert len(rows) == len(set(rows)) > 6


def test_completed_trials_were_trained_to_the_last_step(job: FakeJob, tmp_path: Path) -> None:
    spec = make_spec(tmp_path / "job", stopper="none")
    log = run_job(spec, tmp_path / "job", observer=SILENT)

    assert {state.status for state in log.trials} == {TrialStatus.COMPLETED}
    assert {state.step for state in log.trials} == {STEPS}


#: More than the appends of the job below.
NUM_APPENDS = 42


@pytest.mark.parametrize("num_appends", range(1, NUM_APPENDS))
def test_driver_killed_after_any_append_resumes_to_the_same_end(
    job: FakeJob, tmp_path: Path, num_appends: int
) -> None:
    spec = make_spec(tmp_path / "whole", **{"budget.trials": 2})
    whole = run_job(spec, tmp_path / "whole", observer=SILENT)

    job.kill_after(num_appends)
    try:
        run_job(spec, tmp_path / "killed", observer=SILENT)
    except KilledError:
        job.live()
        resume_job(tmp_path / "killed", observer=SILENT)

    resumed = open_job(tmp_path / "killed")
    assert outcome(resumed) == outcome(whole)
    assert resumed.end_reason == whole.end_reason
    measured = [
        (e.data["trial"], e.data["step"])
        for e in entries_of(tmp_path / "killed")
        if e.kind == "measurement"
    ]
    assert len(measured) == len(set(measured))


def test_kills_reach_the_end_of_the_job(job: FakeJob, tmp_path: Path) -> None:
    """The range of the test above covers every append of its job."""
    spec = make_spec(tmp_path / "job", **{"budget.trials": 2})
    run_job(spec, tmp_path / "job", observer=SILENT)

    assert 20 < len(entries_of(tmp_path / "job")) < NUM_APPENDS


def test_driver_killed_again_and_again_loses_nothing(job: FakeJob, tmp_path: Path) -> None:
    spec = make_spec(tmp_path / "whole")
    whole = run_job(spec, tmp_path / "whole", observer=SILENT)

    job.kill_after(6)
    with pytest.raises(KilledError):
        run_job(spec, tmp_path / "killed", observer=SILENT)
    deaths = 1
    while True:
        job.live()
        job.kill_after(7)
        try:
            resume_job(tmp_path / "killed", observer=SILENT)
            break
        except KilledError:
            deaths += 1

    assert deaths >= 5
    assert outcome(open_job(tmp_path / "killed")) == outcome(whole)


def test_lost_segment_counts_no_retry(job: FakeJob, tmp_path: Path) -> None:
    spec = make_spec(tmp_path / "job", **{"workers.max_retries": 0})
    job.kill_after(4)  # job, prepared, proposal, segment
    with pytest.raises(KilledError):
        run_job(spec, tmp_path / "job", observer=SILENT)
    assert entries_of(tmp_path / "job")[-1].kind == "segment"

    job.live()
    log = resume_job(tmp_path / "job", observer=SILENT)

    assert log.states[0].num_failures == 0
    assert log.states[0].status in (TrialStatus.COMPLETED, TrialStatus.STOPPED)


def test_dead_worker_is_retried(job: FakeJob, tmp_path: Path) -> None:
    job.script = {(1, 0): FailureKind.WORKER_DIED}
    log = run_job(make_spec(tmp_path / "job", stopper="none"), tmp_path / "job", observer=SILENT)

    assert log.states[1].status is TrialStatus.COMPLETED
    assert log.states[1].num_failures == 1


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (FailureKind.OUT_OF_MEMORY, TrialStatus.INFEASIBLE),
        (FailureKind.DIVERGED, TrialStatus.DIVERGED),
    ],
)
def test_hopeless_failure_ends_the_trial_at_once(
    job: FakeJob, tmp_path: Path, kind: FailureKind, status: TrialStatus
) -> None:
    job.script = {(0, 0): kind}
    log = run_job(make_spec(tmp_path / "job"), tmp_path / "job", observer=SILENT)

    assert log.states[0].status is status
    assert "scripted" in log.states[0].reason
    assert len(log.states) == 6


def test_trial_that_always_fails_is_given_up_after_its_retries(
    job: FakeJob, tmp_path: Path
) -> None:
    job.script = {(2, attempt): FailureKind.ERROR for attempt in range(10)}
    log = run_job(make_spec(tmp_path / "job"), tmp_path / "job", observer=SILENT)

    assert log.states[2].status is TrialStatus.FAILED
    assert log.states[2].num_failures == 3
    assert len(log.states) == 6


def test_budget_of_steps_bounds_what_is_trained(job: FakeJob, tmp_path: Path) -> None:
    spec = make_spec(tmp_path / "job", **{"budget.steps": 50, "stopper": "none"})
    log = run_job(spec, tmp_path / "job", observer=SILENT)

    assert log.total_steps == 2 * STEPS
    assert log.end_reason == "the budget of 50 steps is spent"


def test_several_workers_are_kept_busy(job: FakeJob, tmp_path: Path) -> None:
    job.num_workers = 3
    log = run_job(make_spec(tmp_path / "job"), tmp_path / "job", observer=SILENT)

    assert len(log.states) == 6
    numbers = [segment.trial.number for segment in job.executors[0].submitted[:3]]
    assert numbers == [0, 1, 2]


def test_only_checkpoints_that_are_needed_stay(job: FakeJob, tmp_path: Path) -> None:
    log = run_job(make_spec(tmp_path / "job"), tmp_path / "job", observer=SILENT)

    from autopeft.results.report import front_of

    kept = {path.name for path in JobFolder(tmp_path / "job").checkpoints.iterdir()}
    needed = {str(state.checkpoint) for state in front_of(log)}
    paused = {str(log.states[number].checkpoint) for number in log.resumable}
    assert needed <= kept
    assert kept == needed | paused


def test_finished_job_is_left_alone(job: FakeJob, tmp_path: Path) -> None:
    run_job(make_spec(tmp_path / "job"), tmp_path / "job", observer=SILENT)
    before = len(entries_of(tmp_path / "job"))

    log = resume_job(tmp_path / "job", observer=SILENT)

    assert log.end_reason is not None
    assert len(entries_of(tmp_path / "job")) == before


def test_larger_budget_goes_on(job: FakeJob, tmp_path: Path) -> None:
    run_job(make_spec(tmp_path / "job"), tmp_path / "job", observer=SILENT)
    log = resume_job(tmp_path / "job", observer=SILENT, budget={"trials": 9})

    assert len(log.states) == 9
    assert log.end_reason == "the budget of 9 trials is spent"


def test_resume_refuses_changed_data(job: FakeJob, tmp_path: Path) -> None:
    job.kill_after(8)
    with pytest.raises(KilledError):
        run_job(make_spec(tmp_path / "job"), tmp_path / "job", observer=SILENT)
    job.live()
    job.fingerprint = "0" * 64

    with pytest.raises(JobFolderError, match="the data changed since the job began"):
        resume_job(tmp_path / "job", observer=SILENT)


def test_job_is_recorded_before_anything_can_go_wrong(
    job: FakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autopeft.service import preparation

    def broken(spec: Any, **options: Any) -> Any:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(preparation, "prepare", broken)
    with pytest.raises(RuntimeError, match="no such luck"):
        run_job(make_spec(tmp_path / "job"), tmp_path / "job", observer=SILENT)

    log = open_job(tmp_path / "job")
    assert log.spec is not None
    assert log.states == {}


def test_output_that_holds_a_job_is_refused(job: FakeJob, tmp_path: Path) -> None:
    spec = make_spec(tmp_path / "job")
    run_job(spec, tmp_path / "job", observer=SILENT)

    with pytest.raises(JobFolderError, match="already holds a job"):
        run_job(spec, tmp_path / "job", observer=SILENT)


def test_job_killed_before_it_was_recorded_says_how_to_start_again(
    job: FakeJob, tmp_path: Path
) -> None:
    (tmp_path / "job").mkdir()
    with SqliteStore(JobFolder(tmp_path / "job").log) as store:
        store.begin_run("a driver that got no further")

    with pytest.raises(JobFolderError, match="before its job file was recorded"):
        resume_job(tmp_path / "job", observer=SILENT)


def test_larger_budget_outlives_a_crash(job: FakeJob, tmp_path: Path) -> None:
    run_job(make_spec(tmp_path / "job"), tmp_path / "job", observer=SILENT)
    job.kill_after(6)
    with pytest.raises(KilledError):
        resume_job(tmp_path / "job", observer=SILENT, budget={"trials": 8})
    job.live()

    log = resume_job(tmp_path / "job", observer=SILENT)

    assert len(log.states) == 8


def test_limit_that_is_reached_already_is_refused(job: FakeJob, tmp_path: Path) -> None:
    run_job(make_spec(tmp_path / "job"), tmp_path / "job", observer=SILENT)
    before = entries_of(tmp_path / "job")

    with pytest.raises(InvalidJobError, match="has used 6 trials already, a limit of 3"):
        resume_job(tmp_path / "job", observer=SILENT, budget={"trials": 3})

    assert entries_of(tmp_path / "job") == before


def test_job_that_cannot_be_prepared_leaves_no_folder_in_the_way(
    job: FakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autopeft.service import preparation

    def wrong(spec: Any, **options: Any) -> Any:
        raise DataError("the label column is misspelt")

    prepare = preparation.prepare
    monkeypatch.setattr(preparation, "prepare", wrong)
    with pytest.raises(DataError, match="misspelt"):
        run_job(make_spec(tmp_path / "job"), tmp_path / "job", observer=SILENT)
    assert not (tmp_path / "job").exists()
    deep = tmp_path / "runs" / "of today" / "job"
    with pytest.raises(DataError, match="misspelt"):
        run_job(make_spec(deep), deep, observer=SILENT)
    assert not (tmp_path / "runs").exists()
    assert tmp_path.exists()

    monkeypatch.setattr(preparation, "prepare", prepare)
    log = run_job(make_spec(tmp_path / "job"), tmp_path / "job", observer=SILENT)
    assert log.end_reason is not None


def test_a_broken_constraint_is_told_when_a_trial_completes(
    job: FakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = preparation.prepare

    def prepare(spec: JobSpec, **options: Any) -> Workbench:
        bench = whole(spec, **options)
        limits = (Constraint(name="accuracy", minimum=0.999),)
        scale = replace(bench.prepared.scale, constraints=limits)
        return replace(bench, prepared=replace(bench.prepared, scale=scale))

    monkeypatch.setattr(preparation, "prepare", prepare)
    spec = make_spec(tmp_path / "run", budget={"trials": 1}, stopper="none")
    told: list[str] = []

    class Listener(SilentObserver):
        def on_log(self, log: JobLog, message: str | None) -> None:
            told.extend([message] if message else [])

    log = run_job(spec, tmp_path / "run", observer=Listener())
    value = log.states[0].curve[-1].metrics["accuracy"]
    assert told[-1] == (
        "trial 0: complete: trained to the end, but not on the front: "
        f"accuracy is {value:.6g}, asked is 0.999 <= accuracy"
    )


def doubting_after(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """Let the proposer doubt everything beyond ``n`` trials."""
    plain = RandomProposer.propose

    def propose(self: RandomProposer, count: int) -> list[Proposal]:
        doubt = "nothing is left to gain" if len(self.states) >= n else ""
        return [replace(proposal, doubt=doubt) for proposal in plain(self, count)]

    monkeypatch.setattr(RandomProposer, "propose", propose)


def test_a_job_ends_where_improvement_is_improbable(
    job: FakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubting_after(monkeypatch, 3)
    log = run_job(make_spec(tmp_path / "job"), tmp_path / "job", observer=SILENT)
    assert log.end_reason == "further improvement is improbable: nothing is left to gain"
    assert [state.status for state in log.trials] == [TrialStatus.COMPLETED] * 3


def test_who_raises_the_budget_of_such_a_job_wants_it_to_go_on(
    job: FakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubting_after(monkeypatch, 3)
    run_job(make_spec(tmp_path / "job"), tmp_path / "job", observer=SILENT)
    log = resume_job(tmp_path / "job", observer=SILENT, budget={"trials": 8})
    assert len(log.trials) == 8
    assert log.end_reason == "the budget of 8 trials is spent"


def test_a_job_may_be_told_not_to_end_early(
    job: FakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubting_after(monkeypatch, 3)
    spec = make_spec(tmp_path / "job", **{"budget.end_early": False})
    assert len(run_job(spec, tmp_path / "job", observer=SILENT).trials) == 6
