"""The main job on a tiny model: search, the same again, export, confirm."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import autopeft
from autopeft.errors import AutopeftError, InvalidJobError, JobFolderError
from autopeft.records import TrialStatus
from autopeft.results.job_log import JobLog
from autopeft.service.confirmation import confirm_job
from autopeft.service.exports import export_trial
from autopeft.service.observer import SilentObserver
from tests.service.tiny_job import STEPS, write_tiny_job

METHODS = ("lora", "ia3", "beft", "prefix")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> autopeft.Job:
    """Return a finished search, read only."""
    return autopeft.search(write_tiny_job(tmp_path_factory.mktemp("job")))


def found(log: JobLog) -> list[Any]:
    return [
        [
            state.trial.number,
            state.trial.configuration.key,
            state.trial.origin,
            state.status.value,
            [[m.step, m.score, m.metrics["train_loss"]] for m in state.curve],
        ]
        for state in log.trials
    ]


def retrainings(job: autopeft.Job) -> list[Path]:
    return list((job.folder / "confirmation").iterdir())


def test_search_ends_with_a_front(job: autopeft.Job) -> None:
    assert job.log.end_reason == "the budget of 5 trials is spent"
    assert len(job.trials) == 5
    assert 1 <= len(job.front) <= 5
    assert set(job.curves["step"]) <= set(range(1, STEPS + 1))
    assert job.summary["hypervolume"] >= 0


def test_same_seed_finds_the_same(job: autopeft.Job, tmp_path: Path) -> None:
    again = autopeft.search(write_tiny_job(tmp_path))

    assert found(again.log) == found(job.log)


def test_other_seed_finds_something_else(job: autopeft.Job, tmp_path: Path) -> None:
    other = autopeft.search(write_tiny_job(tmp_path), seed=1)

    assert found(other.log) != found(job.log)


@pytest.mark.slow
def test_same_seed_finds_the_same_in_another_process(job: autopeft.Job, tmp_path: Path) -> None:
    path = write_tiny_job(tmp_path)
    subprocess.run(
        [sys.executable, "-m", "autopeft", "search", str(path)], check=True, cwd=tmp_path
    )

    assert found(autopeft.open(tmp_path / "run").log) == found(job.log)


def test_search_goes_on_with_what_is_there(job: autopeft.Job) -> None:
    """Calling search again on a finished job trains nothing."""
    before = job.log.num_entries
    again = autopeft.search(job.folder.parent / "tiny.yaml")

    assert again.log.num_entries == before


def test_search_refuses_another_job_in_the_same_folder(job: autopeft.Job) -> None:
    with pytest.raises(JobFolderError, match="another job"):
        autopeft.search(job.folder.parent / "tiny.yaml", seed=7)


def test_search_refuses_what_is_no_job() -> None:
    with pytest.raises(InvalidJobError, match="got int"):
        autopeft.search(3)  # type: ignore[arg-type]


def test_what_peft_reports_is_what_the_front_says(job: autopeft.Job) -> None:
    for state in job.log.trials:
        costs = state.trial.costs
        assert costs.num_trainable_parameters > costs.num_adapter_parameters
        assert costs.train_memory_bytes > 0


@pytest.mark.parametrize("method", METHODS)
def test_export_of_every_method_predicts_the_same(tmp_path: Path, method: str) -> None:
    space = {"combine": "one", "methods": {method: {}}}
    path = write_tiny_job(tmp_path, space=space, budget={"trials": 1}, stopper="none")
    job = autopeft.search(path)

    report = job.export(tmp_path / "out")

    assert report.unverified is None
    assert report.num_rows == 30
    assert report.num_prediction_mismatches == 0
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["peft_type"]
    assert not any(str(tmp_path) in path.read_text() for path in (tmp_path / "out").glob("*.json"))


def test_export_of_several_methods_at_once_predicts_the_same(tmp_path: Path) -> None:
    path = write_tiny_job(tmp_path, space="mixed", budget={"trials": 6}, stopper="none")
    job = autopeft.search(path, proposer="random")
    several = [
        state.trial.number
        for state in job.log.trials
        if len(state.trial.configuration.modules) > 1 and state.status is TrialStatus.COMPLETED
    ]
    kept = [
        number
        for number in several
        if (job.folder / "checkpoints" / str(job.log.states[number].checkpoint)).is_dir()
    ]
    assert kept, "no configuration with several methods is on the front"

    report = job.export(tmp_path / "out", pick=kept[0])

    assert report.num_rows == 30
    assert (tmp_path / "out" / "load.py").is_file()


def test_a_query_is_answered_exported_and_confirmed(tmp_path: Path) -> None:
    path = write_tiny_job(tmp_path, stopper="none", proposer="lora-sweep", budget={"trials": 3})
    job = autopeft.search(path)
    least = int(job.trials["num_trainable_parameters"].min())
    limit = f"num_trainable_parameters<={least}"
    allowed = job.trials.query("num_trainable_parameters == @least")
    best = job.best(limit)

    assert set(job.front_where(limit)["trial"]) <= set(allowed["trial"])
    assert best["metric_value"] == allowed["metric_value"].max()
    assert job.export(tmp_path / "out", where=limit).trial == best["trial"]
    result = job.confirm(num_seeds=1, where=limit)
    told = result.to_json()
    assert told["winner"]["trial"] == best["trial"]
    assert told["winner"]["validation_value"] == best["metric_value"]
    assert told["baseline"]["num_trainable_parameters"] <= least
    assert (told["where"], told["baseline_keeps_where"]) == (list(result.where), True)
    assert result.where[0].startswith("num_trainable_parameters <= ")


def test_export_that_fails_leaves_nothing(job: autopeft.Job, tmp_path: Path) -> None:
    with pytest.raises(AutopeftError, match="99"):
        export_trial(job.folder, pick="99", tool="peft", target=tmp_path / "out")

    assert not (tmp_path / "out").exists()


class Told(SilentObserver):
    """Keep what a person would read."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def on_log(self, log: JobLog, message: str | None) -> None:
        self.messages += [message] if message else []


def test_confirmation_compares_on_the_test_split_and_remembers(tmp_path: Path) -> None:
    path = write_tiny_job(tmp_path, stopper="none", proposer="lora-sweep", budget={"trials": 2})
    finished = autopeft.search(path)

    told = Told()
    first = confirm_job(finished.folder, num_seeds=2, observer=told)
    assert any(
        re.fullmatch(r"winner, seed 1: test accuracy 0\.\d{4} \(\d of \d runs\)", line)
        for line in told.messages
    )
    trained = {path.name: path.stat().st_mtime_ns for path in retrainings(finished)}
    again = confirm_job(finished.folder, num_seeds=2, observer=SilentObserver())

    assert first.num_test_rows == 24
    assert first.to_json() == again.to_json()
    assert trained == {path.name: path.stat().st_mtime_ns for path in retrainings(finished)}
    assert trained
    low, high = first.interval
    assert low <= first.difference <= high
    assert len(first.winner.metric_values) == 2


def test_a_search_from_python_prints_what_happens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_tiny_job(tmp_path, stopper="none", proposer="lora-sweep", budget={"trials": 1})
    with pytest.raises(InvalidJobError, match="unknown observer 'loud'"):
        autopeft.search(path, observer="loud")  # type: ignore[arg-type]
    assert capsys.readouterr().out == ""
    autopeft.search(path, observer="print")
    told = capsys.readouterr().out

    assert "searching\n" in told
    assert "trial 0: step 8: accuracy " in told
    assert "trial 0: complete: trained to the end\n" in told


def test_confirmation_needs_a_baseline(tmp_path: Path) -> None:
    space = {"combine": "one", "methods": {"ia3": {}}}
    job = autopeft.search(
        write_tiny_job(tmp_path, space=space, budget={"trials": 1}, stopper="none")
    )

    with pytest.raises(JobFolderError, match="no trial of the LoRA sweep"):
        confirm_job(job.folder, observer=SilentObserver())


def test_test_split_is_not_tokenised_in_a_search(job: autopeft.Job) -> None:
    assert job.log.prepared is not None
    assert job.log.prepared["num_rows"] == {"train": 48, "validation": 30, "test": 24}
    kept = list((job.folder / "checkpoints").glob("*/validation.safetensors"))
    from autopeft.workers.checkpoints import read_outputs

    assert {len(read_outputs(path.parent)[0]) for path in kept} == {30}
