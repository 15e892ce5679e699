from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopeft.errors import JobFolderError
from autopeft.records import FailureKind, TrialStatus
from autopeft.results import job_log
from autopeft.results.job_log import JobLog, LogFolder, LoggedAction, fold
from autopeft.results.memory_store import MemoryStore
from autopeft.results.sqlite_store import SqliteStore
from autopeft.results.store import Entry
from tests.results.jobs import SCALE, Scribe, example_job, make_measurement, make_trial


@pytest.fixture
def scribe() -> Scribe:
    scribe = Scribe()
    scribe.job()
    scribe.prepared()
    return scribe


def status_of(log: JobLog, trial: int) -> TrialStatus:
    return log.states[trial].status


def test_nothing_is_known_of_an_empty_log() -> None:
    log = fold([])

    assert log == JobLog()
    assert (log.spec, log.name, log.prepared, log.scale, log.end_reason) == (None,) * 5
    assert (log.states, log.num_runs, log.spent_seconds, log.num_entries) == ({}, 0, 0.0, 0)


def test_job_and_prepared_are_kept(scribe: Scribe) -> None:
    assert scribe.log.name == "sst2"
    assert scribe.log.versions == {"torch": "2.13.0"}
    assert scribe.log.prepared is not None
    assert scribe.log.prepared["task"] == "classification"
    assert scribe.log.scale == SCALE


def test_a_trial_comes_back_as_it_went(scribe: Scribe) -> None:
    trial = scribe.propose(make_trial(0))

    state = scribe.log.states[0]
    assert state.trial == trial
    assert (state.status, state.curve, state.reason) == (TrialStatus.PROPOSED, (), "")


@pytest.mark.parametrize(
    ("action", "status", "is_due"),
    [
        ("continue", TrialStatus.RUNNING, True),
        ("promote", TrialStatus.RUNNING, True),
        ("pause", TrialStatus.PAUSED, False),
        ("stop", TrialStatus.STOPPED, False),
        ("complete", TrialStatus.COMPLETED, False),
        ("infeasible", TrialStatus.INFEASIBLE, False),
        ("diverged", TrialStatus.DIVERGED, False),
        ("failed", TrialStatus.FAILED, False),
    ],
)
def test_a_decision_gives_the_status(
    scribe: Scribe, action: str, status: TrialStatus, is_due: bool
) -> None:
    scribe.propose(make_trial(0))
    scribe.measure(0, 32, 0.8)
    scribe.decide(0, action, "because")

    state = scribe.log.states[0]
    assert state.status is status
    assert state.reason == ("" if is_due or action == "complete" else "because")
    assert scribe.log.due == ((0,) if is_due else ())
    assert scribe.log.undecided == ()


def test_every_action_has_a_status() -> None:
    assert set(job_log._STATUS_AFTER) == set(LoggedAction)


def test_what_is_next_follows_from_the_last_entry(scribe: Scribe) -> None:
    """Every instant at which a driver can die leaves exactly one thing to do for the trial."""
    seen = []

    def note() -> None:
        log = scribe.log
        names = ("due", "undecided", "unfinished", "failures")
        seen.append([name for name in names if getattr(log, name)])

    scribe.propose(make_trial(0))
    note()
    segment = scribe.segment(0, 32)
    note()
    scribe.fail(segment, FailureKind.WORKER_DIED)
    note()
    scribe.segment(0, 32, attempt=1)
    note()
    scribe.add("measurement", job_log.measurement_data(make_measurement(0, 32, 0.8)))
    note()
    scribe.decide(0, "continue")
    note()
    scribe.segment(0, 96)
    note()
    scribe.add("measurement", job_log.measurement_data(make_measurement(0, 96, 0.9)))
    note()
    scribe.decide(0, "complete")
    note()

    assert seen == [
        ["due"],
        ["unfinished"],
        ["failures"],
        ["unfinished"],
        ["undecided"],
        ["due"],
        ["unfinished"],
        ["undecided"],
        [],
    ]


def test_a_lost_segment_comes_back_whole(scribe: Scribe) -> None:
    scribe.propose(make_trial(0))
    scribe.measure(0, 32, 0.8)
    scribe.decide(0, "continue")
    segment = scribe.segment(0, 64, attempt=1)

    assert scribe.log.unfinished == (segment,)
    assert segment.checkpoint == "trial-0000-step-00032"
    assert fold(scribe.store.read()).unfinished == (segment,)


def test_a_segment_submitted_again_replaces_the_lost_one(scribe: Scribe) -> None:
    scribe.propose(make_trial(0))
    scribe.segment(0, 32)
    again = scribe.segment(0, 32)

    assert scribe.log.unfinished == (again,)
    assert scribe.log.states[0].num_failures == 0


def test_failures_wait_for_a_retry_or_a_decision(scribe: Scribe) -> None:
    scribe.propose(make_trial(0))
    segment = scribe.segment(0, 32)
    scribe.fail(segment, FailureKind.WORKER_DIED, "gone")

    (failed,) = scribe.log.failures
    assert (failed.segment, failed.kind, failed.message) == (
        segment,
        FailureKind.WORKER_DIED,
        "gone",
    )
    assert scribe.log.states[0].num_failures == 1
    scribe.fail(scribe.segment(0, 32, attempt=1), FailureKind.ERROR)
    assert scribe.log.states[0].num_failures == 2
    scribe.decide(0, "failed", "gone twice")
    assert scribe.log.failures == ()
    assert scribe.log.states[0].num_failures == 2


def test_steps_are_counted_once_trained(scribe: Scribe) -> None:
    scribe.completed(make_trial(0), (0.7, 0.8, 0.9))
    scribe.propose(make_trial(1))
    scribe.fail(scribe.segment(1, 32), FailureKind.ERROR)
    assert scribe.log.total_steps == 96
    scribe.measure(1, 48, 0.5)
    assert scribe.log.total_steps == 96 + 48


def test_steps_trained_again_after_a_lost_checkpoint_are_counted(scribe: Scribe) -> None:
    scribe.propose(make_trial(0))
    scribe.measure(0, 32, 0.5)
    scribe.decide(0, "continue")
    scribe.add(
        "segment", {"trial": 0, "from_step": 0, "to_step": 64, "checkpoint": None, "attempt": 0}
    )
    scribe.add("measurement", job_log.measurement_data(make_measurement(0, 64, 0.6)))

    assert scribe.log.total_steps == 32 + 64


def test_a_measurement_counts_once(scribe: Scribe) -> None:
    scribe.propose(make_trial(0))
    scribe.measure(0, 32, 0.5)
    before = scribe.log
    entry = scribe.add("measurement", job_log.measurement_data(make_measurement(0, 32, 0.9)))

    assert entry.data["score"] == 0.5
    assert scribe.log == before


def test_what_is_not_finite_is_null_in_the_log_and_nan_again() -> None:
    measurement = make_measurement(0, 32, math.nan, metrics={"loss": math.inf, "f1": 0.5})
    data = job_log.measurement_data(measurement)

    assert data["score"] is None
    assert data["metrics"] == {"loss": None, "f1": 0.5}
    again = job_log.read_measurement(data)
    assert math.isnan(again.score)
    assert math.isnan(again.metrics["loss"])
    assert again.metrics["f1"] == 0.5


def test_a_finite_measurement_survives_the_log(scribe: Scribe) -> None:
    scribe.propose(make_trial(0))
    scribe.measure(0, 32, 1 / 3, memory_bytes=12345)

    expected = make_measurement(0, 32, 1 / 3, memory_bytes=12345)
    assert scribe.log.states[0].curve == (expected,)


def test_seconds_add_up_over_runs() -> None:
    store = MemoryStore()
    one = Scribe(store, run="one")
    one.job()
    one.add("spent", {"seconds": 10.0})
    one.add("spent", {"seconds": 12.5})
    two = Scribe(store, run="two")
    assert two.log.spent_seconds == 12.5
    two.add("spent", {"seconds": 3.0})

    assert two.log.spent_seconds == 15.5
    assert two.log.spent_seconds_before("two") == 12.5
    assert two.log.runs == ("one", "two")
    assert two.log.num_runs == 2


def test_a_run_is_counted_once_however_often_it_says_so(scribe: Scribe) -> None:
    scribe.add("run", {"pid": 1, "host": "here"})
    assert scribe.log.num_runs == 1


def test_paused_trials_are_stopped_by_the_end_and_paused_again_by_a_resume() -> None:
    store = MemoryStore()
    one = Scribe(store, run="one")
    one.job()
    one.prepared()
    one.propose(make_trial(0))
    one.measure(0, 32, 0.5)
    one.decide(0, "pause", "rank 3 of 4")
    one.propose(make_trial(1))
    one.measure(1, 32, 0.5)
    one.decide(1, "stop", "worst")
    one.add("end", {"reason": "the budget of 2 trials is spent"})

    assert one.log.end_reason == "the budget of 2 trials is spent"
    assert status_of(one.log, 0) is TrialStatus.STOPPED
    assert one.log.states[0].reason == "still paused when the job ended: rank 3 of 4"

    two = Scribe(store, run="two")
    assert two.log.end_reason is None
    assert status_of(two.log, 0) is TrialStatus.PAUSED
    assert two.log.states[0].reason == "rank 3 of 4"
    assert status_of(two.log, 1) is TrialStatus.STOPPED
    two.add("budget", {"trials": 3})
    assert two.log.budget == {"trials": 3}
    two.decide(0, "promote", "")
    assert two.log.due == (0,)
    two.measure(0, 96, 0.6)
    two.decide(0, "complete", "")
    two.add("end", {"reason": "done"})
    assert status_of(two.log, 0) is TrialStatus.COMPLETED
    assert two.log.num_runs == 2


def test_a_pause_without_a_reason_still_says_why_it_stopped(scribe: Scribe) -> None:
    scribe.propose(make_trial(0))
    scribe.measure(0, 32, 0.5)
    scribe.decide(0, "pause")
    scribe.add("end", {"reason": "done"})

    assert scribe.log.states[0].reason == "still paused when the job ended"


def test_later_budgets_replace_earlier_ones_by_name(scribe: Scribe) -> None:
    scribe.add("budget", {"trials": 10, "minutes": 5})
    scribe.add("budget", {"trials": 20})

    assert scribe.log.budget == {"trials": 20, "minutes": 5}


def test_an_unknown_kind_is_passed_over(scribe: Scribe) -> None:
    before = scribe.log
    scribe.add("note", {"text": "hello"})

    assert scribe.log.num_entries == before.num_entries + 1
    assert scribe.log.states == before.states


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("job", {}),
        ("prepared", {"scale": {"metric": "f1"}}),
        ("proposal", {"trial": 0}),
        ("proposal", {"trial": 0, "configuration": {"schema_version": 99}}),
        ("segment", {"trial": 7, "from_step": 0, "to_step": 1, "checkpoint": None, "attempt": 0}),
        ("measurement", {"trial": 0, "step": "many"}),
        ("decision", {"trial": 0, "step": 1, "action": "explode", "reason": ""}),
        ("spent", {"seconds": None}),
        ("end", {}),
    ],
)
def test_an_entry_that_cannot_be_understood_is_named(kind: str, data: dict[str, Any]) -> None:
    folder = LogFolder()
    with pytest.raises(JobFolderError, match=rf"entry 1 \({kind}\) of the log cannot be read"):
        folder.add(Entry(number=1, run="one", kind=kind, data=data, time=0.0))

    assert folder.state == JobLog()


def test_entries_left_out_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(AssertionError, match="entries were left out"):
        LogFolder().add(Entry(number=2, run="one", kind="run", data={}, time=0.0))


def test_a_snapshot_does_not_change(scribe: Scribe) -> None:
    scribe.propose(make_trial(0))
    before = scribe.log
    copy = dict(before.states)
    scribe.measure(0, 32, 0.5)
    scribe.add("spent", {"seconds": 1.0})

    assert before.states == copy
    assert before.spent == {}
    assert scribe.log is scribe.log


def test_an_unknown_action_is_not_written() -> None:
    with pytest.raises(ValueError, match="explode"):
        job_log.decision_data(0, 32, "explode", "")


@pytest.mark.parametrize(
    ("kind", "data", "fact"),
    [
        ("job", {}, "job"),
        ("prepared", {}, "prepared"),
        ("proposal", {"trial": 3}, "proposal/3"),
        ("measurement", {"trial": 3, "step": 64}, "measurement/3/64"),
        ("segment", {"trial": 3}, None),
        ("spent", {}, None),
    ],
)
def test_facts_have_names(kind: str, data: dict[str, Any], fact: str | None) -> None:
    assert job_log.unique_fact(kind, data) == fact


@settings(max_examples=30)
@given(cut=st.integers(0, 200))
def test_folding_on_from_any_point_is_folding_at_once(cut: int) -> None:
    """What a driver holds live equals what it rebuilds from the log, wherever it was killed."""
    entries = list(example_job().store.read())
    cut = min(cut, len(entries))
    resumed = LogFolder()
    for entry in entries[:cut]:
        resumed.add(entry)
    assert repr(resumed.state) == repr(fold(entries[:cut]))
    for entry in entries:  # the first ones again: passed over
        resumed.add(entry)

    assert repr(resumed.state) == repr(fold(entries))


def test_a_log_on_disk_folds_as_the_one_in_memory(tmp_path: Any) -> None:
    with SqliteStore(tmp_path / "log.sqlite") as store:
        live = example_job(store).log
        stored = fold(store.read())

    assert repr(stored) == repr(live)
    assert repr(stored.states) == repr(example_job().log.states)
