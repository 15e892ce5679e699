"""Words, choices, pictures and sounds: a short search on real data, its winner exported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import autopeft
from autopeft.cli.checking import check
from autopeft.service.job_checks import find_warnings
from autopeft.service.job_spec import load_job
from tests.service.modality_jobs import DATA_SETS, write_job

#: What each job reads.
READ = {
    "wnut17": "tokens, label in tags",
    "copa": "text and question and choices, label in label",
    "cifar10_small": "pixels_b64, label in label",
    "fsdd_small": "pcm16_b64 and sample_rate, label in label",
}


@pytest.fixture(scope="module", params=DATA_SETS)
def job(
    request: pytest.FixtureRequest, data_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> autopeft.Job:
    """Return a finished search, read only."""
    name = request.param
    if not (data_folder / name).is_dir():
        pytest.skip(f"the folder of data sets holds no {name}")
    return autopeft.search(write_job(tmp_path_factory.mktemp(name), data_folder, name))


def test_a_search_ends_with_a_front(job: autopeft.Job) -> None:
    assert job.log.prepared is not None
    assert job.log.prepared["task"] == DATA_SETS[job.summary["job"]]
    assert len(job.trials) == 3
    assert len(job.front) >= 1
    assert set(job.trials["status"]) <= {"completed", "stopped", "paused"}


def test_the_winner_is_exported_and_predicts_the_same(job: autopeft.Job, tmp_path: Path) -> None:
    report = job.export(tmp_path / "out")

    assert report.unverified is None
    assert report.num_rows == 40
    assert report.num_prediction_mismatches == 0
    facts = json.loads((tmp_path / "out" / "autopeft.json").read_text())
    assert facts["task"] == job.log.prepared["task"]  # type: ignore[index]


def test_check_says_what_is_read_and_never_the_file_names(
    job: autopeft.Job, capsys: pytest.CaptureFixture[str]
) -> None:
    check(job.folder.parent / "job.yaml", schema=False, overrides={})

    name = job.summary["job"]
    said = capsys.readouterr().out
    assert f"data: 64 train, 40 validation, 40 test rows; {DATA_SETS[name]}" in said
    assert f" from {READ[name]}; scored by " in said


@pytest.mark.parametrize("key", ["image_shape", "sample_rate"])
def test_settings_of_other_tasks_are_warned_of(data_folder: Path, tmp_path: Path, key: str) -> None:
    if not (data_folder / "copa").is_dir():
        pytest.skip("the folder of data sets holds no copa")
    value = {"image_shape": [4, 4, 3], "sample_rate": 8000}[key]
    path = write_job(tmp_path, data_folder, "copa", task="multiple-choice")
    spec = load_job(path, {f"data.{key}": value})
    assert find_warnings(spec) == [f"data.{key} is not used by task multiple-choice"]
