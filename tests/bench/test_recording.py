"""Recordings: which trials a table asks for, that it survives a kill, what the file holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from autopeft.bench import recording
from autopeft.bench.recording import num_trials_of, record_table
from autopeft.bench.table import Table, read_table, rungs_of, table_of
from autopeft.errors import AutopeftError, InvalidJobError
from autopeft.records import FailureKind, TrialStatus
from autopeft.results.job_log import JobLog
from autopeft.service.observer import SilentObserver
from tests.service.fake_job import STEPS, FakeJob, KilledError, fake_score, make_spec

NUM_PILOT, NUM_CONFIGURATIONS, NUM_REPEATED = 3, 8, 5


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeJob]:
    # Patched apart from the job, which undoes its own when it comes to life again.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording, "NUM_PILOT", NUM_PILOT)
        yield FakeJob(monkeypatch)


def record(
    folder: Path, configurations: int = NUM_CONFIGURATIONS, repeated: int = NUM_REPEATED
) -> JobLog:
    return record_table(
        make_spec(folder),
        folder,
        num_configurations=configurations,
        num_repeated=repeated,
        observer=SilentObserver(),
    )


def seeds_by_key(log: JobLog) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for state in log.trials:
        found.setdefault(state.trial.configuration.key, []).append(state.trial.seed)
    return found


def test_holds_what_was_asked_for(job: FakeJob, tmp_path: Path) -> None:
    log = record(tmp_path / "t")

    seeds = seeds_by_key(log)
    assert len(seeds) == NUM_CONFIGURATIONS
    assert sorted(len(each) for each in seeds.values()) == [1] * 3 + [2] * 3 + [3] * 2
    assert len(log.states) == num_trials_of(NUM_CONFIGURATIONS, NUM_REPEATED)
    assert all(len(set(each)) == len(each) for each in seeds.values())


def test_every_trial_is_measured_at_every_rung(job: FakeJob, tmp_path: Path) -> None:
    log = record(tmp_path / "t", 3, 2)

    assert rungs_of(STEPS) == (2, 4, 8, 16, 24, 32)
    for state in log.trials:
        assert state.status is TrialStatus.COMPLETED
        assert tuple(m.step for m in state.curve) == rungs_of(STEPS)


def test_pilot_comes_first_and_is_random(job: FakeJob, tmp_path: Path) -> None:
    log = record(tmp_path / "t")

    first, second = log.trials[:NUM_PILOT], log.trials[NUM_PILOT : 2 * NUM_PILOT]
    assert {state.trial.origin for state in first} == {"random"}
    assert [s.trial.configuration for s in first] == [s.trial.configuration for s in second]
    assert {state.trial.seed for state in first} == {0}
    assert {state.trial.seed for state in second} == {1}


def test_further_seeds_go_to_the_best(job: FakeJob, tmp_path: Path) -> None:
    log = record(tmp_path / "t")

    pilot = {state.trial.configuration.key for state in log.trials[:NUM_PILOT]}
    others = {
        s.trial.configuration.key: s.score
        for s in log.trials
        if s.trial.seed == 0 and s.trial.configuration.key not in pilot
    }
    best = sorted(others, key=lambda key: -others[key])[:2]
    seeds = seeds_by_key(log)
    assert {key for key in others if len(seeds[key]) == 3} == set(best)


def test_killed_recording_goes_on(job: FakeJob, tmp_path: Path) -> None:
    whole = record(tmp_path / "whole")
    job.kill_after(100)
    with pytest.raises(KilledError):
        record(tmp_path / "t")
    job.live()
    log = record(tmp_path / "t")

    assert [s.trial for s in log.trials] == [s.trial for s in whole.trials]
    assert [s.curve for s in log.trials] == [s.curve for s in whole.trials]


def test_grows(job: FakeJob, tmp_path: Path) -> None:
    small = record(tmp_path / "t", 3, 3)
    log = record(tmp_path / "t")

    assert log.trials[: len(small.trials)] == small.trials
    assert len(seeds_by_key(log)) == NUM_CONFIGURATIONS


def test_whole_recording_is_left_alone(job: FakeJob, tmp_path: Path) -> None:
    first = record(tmp_path / "t", 3, 2)
    again = record(tmp_path / "t", 3, 2)

    assert [s.curve for s in again.trials] == [s.curve for s in first.trials]
    assert sum(len(each.submitted) for each in job.executors) == 5 * len(rungs_of(STEPS))


def test_other_settings_are_refused(job: FakeJob, tmp_path: Path) -> None:
    record(tmp_path / "t", 3, 2)
    spec = make_spec(tmp_path / "t", **{"training.steps": 16})

    with pytest.raises(InvalidJobError, match="other settings: training"):
        record_table(
            spec,
            tmp_path / "t",
            num_configurations=3,
            num_repeated=2,
            observer=SilentObserver(),
        )


def test_table_can_be_read_without_model_and_data(job: FakeJob, tmp_path: Path) -> None:
    log = record(tmp_path / "t", 3, 2)
    path = tmp_path / "tables" / "t.parquet"
    table_of(log, hardware="a machine").write(path)
    table = read_table(path)

    assert isinstance(table, Table)
    assert len(table.rows) == sum(len(s.curve) for s in log.trials)
    assert list(table.configurations.values()) == list(
        dict.fromkeys(s.trial.configuration for s in log.trials)
    )
    for row in table.finals().itertuples():
        configuration = table.configurations[str(row.key)]
        assert row.score == pytest.approx(fake_score(configuration, STEPS, int(str(row.seed))))
        assert configuration in table.space
    assert table.scale == log.scale
    assert table.max_steps == STEPS


def test_diverged_trial_has_a_row_without_score(job: FakeJob, tmp_path: Path) -> None:
    job.script[1, 0] = FailureKind.DIVERGED
    table = table_of(record(tmp_path / "t", 3, 2), hardware="a machine")

    rows = table.rows[table.rows["trial"] == 1]
    assert list(rows["status"]) == ["diverged"]
    assert list(rows["step"]) == [rungs_of(STEPS)[0]]
    assert np.isnan(rows["score"]).all()


def test_noise_tells_configurations_from_seeds(job: FakeJob, tmp_path: Path) -> None:
    # Scores of the fake job are drawn anew for each seed: configurations explain nothing.
    table = table_of(record(tmp_path / "t"), hardware="a machine")
    noise = table.noise()
    assert noise.num_configurations >= NUM_PILOT
    assert not noise.is_enough

    rows = table.rows.copy()
    rows["score"] = rows["num_adapter_parameters"] + 1e-3 * rows["seed"]
    quiet = Table(rows=rows, facts=table.facts).noise()
    assert quiet.is_enough
    assert quiet.within == pytest.approx(5e-7, rel=0.3)


def test_nothing_recorded_is_no_table() -> None:
    with pytest.raises(AutopeftError, match="nothing is recorded"):
        table_of(JobLog(), hardware="a machine")


def test_another_file_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    with pytest.raises(AutopeftError, match="there is no table"):
        read_table(path)
    path.write_text("nothing of the kind")
    with pytest.raises(AutopeftError, match="not a recorded table"):
        read_table(path)
