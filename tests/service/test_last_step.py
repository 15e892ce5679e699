"""Scored answers and retention in a job: checked at once, measured at the last step, kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from autopeft.errors import InvalidJobError
from autopeft.results.correlation import correlation_text, score_and_answers
from autopeft.results.job_log import JobLog
from autopeft.results.report import summary
from autopeft.service.job_checks import find_warnings
from autopeft.service.job_spec import JobSpec, load_job
from autopeft.service.last_step import wants_retention
from autopeft.service.observer import SilentObserver
from autopeft.service.running import resume_job, run_job
from autopeft.workers.answer_metrics import MetricWarning
from tests.workers import tiny_lm

METRIC = "def length(predictions, references):\n    return sum(map(len, predictions)) + 0.5\n"


def write_job(folder: Path, **changes: Any) -> Path:
    """Write a model, prompts and completions, a metric and a job file."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_lm.write_model(folder / "tiny-llama")
    for seed, (name, number) in enumerate({"train": 40, "validation": 12, "test": 6}.items()):
        columns = tiny_lm.make_rows(number, seed).columns
        pairs = zip(columns["prompt"], columns["completion"], strict=True)
        lines = [json.dumps({"prompt": p, "completion": c}) for p, c in pairs]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    texts = [json.dumps({"text": f"one two three {word}"}) for word in tiny_lm.WORDS]
    (folder / "general.jsonl").write_text("\n".join(texts) + "\n")
    (folder / "metrics.py").write_text(METRIC)
    job: dict[str, Any] = {
        "model": "tiny-llama",
        "data": {name: f"{name}.jsonl" for name in ("train", "validation", "test")},
        "task": "causal-lm",
        "space": {"methods": {"lora": {"rank": [1, 2, 4], "sites": ["q", "v"]}}},
        "training": {"batch_size": 8, "max_tokens": 24, "steps": 8},
        "budget": {"trials": 5},
        "proposer": "random",
        "workers": {"executor": "inline", "cpus": 1},
        "metric": "metrics.py:length",
        "generation": {"max_new_tokens": 3, "rows": 4},
        "retention": {"data": "general.jsonl"},
        "output": str(folder / "run"),
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in {**job, **changes}.items() if v is not None}))
    return path


class Listener(SilentObserver):
    """Keep what a person would be told."""

    def __init__(self) -> None:
        self.progress: list[str] = []
        self.messages: list[str] = []

    def on_progress(self, text: str) -> None:
        self.progress.append(text)

    def on_log(self, log: JobLog, message: str | None) -> None:
        if message is not None:
            self.messages.append(message)


@pytest.fixture(scope="module")
def told() -> Listener:
    """Return what the job of ``folder`` tells."""
    return Listener()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, told: Listener) -> Path:
    """Return the folder of a job that has run; its run is in ``run``."""
    folder = tmp_path_factory.mktemp("job")
    spec = load_job(write_job(folder, stopper="halving"))
    run_job(spec, spec.folder, observer=told)
    return folder


@pytest.fixture(scope="module")
def log(folder: Path) -> JobLog:
    from autopeft.service.jobs import open_job

    return open_job(folder / "run")


def test_only_the_last_step_is_measured(log: JobLog) -> None:
    ended = 0
    for state in log.trials:
        for measurement in state.curve:
            is_last = measurement.step == 8
            ended += is_last
            assert ("length" in measurement.metrics) == is_last
            assert ("retention" in measurement.metrics) == is_last
    assert ended > 0


def test_what_takes_long_is_told_before(log: JobLog, told: Listener) -> None:
    assert "predicting memory: method 1 of 1, lora" in told.progress
    ended = [state.trial.number for state in log.trials if state.step == 8]
    assert ended
    for number in ended:
        before = f"trial {number}: trains to step 8, then generates 4 answers, measures retention"
        after = f"trial {number}: complete: trained to the end"
        assert told.messages.index(before) < told.messages.index(after)


def test_answers_are_kept_beside_the_checkpoint(folder: Path, log: JobLog) -> None:
    found = list((folder / "run" / "checkpoints").glob("*-step-00008/generated.jsonl"))
    assert found
    lines = [json.loads(line) for line in found[0].read_text().splitlines()]
    assert len(lines) == 4
    number = int(found[0].parent.name.split("-")[1])
    measured = log.states[number].curve[-1].metrics["length"]
    assert measured == sum(len(line["generated"]) for line in lines) + 0.5


def test_the_correlation_is_reported(log: JobLog) -> None:
    found, facts = score_and_answers(log), summary(log)
    assert found is not None
    assert facts["answer_metric"] == "length"
    assert facts["score_and_answers"] == found.to_json()
    text = correlation_text(log)
    assert text is not None
    assert text.startswith(f"Ranks by loss and by length, {found.num_pairs} trials: ")


def test_a_resume_scores_by_the_copy(folder: Path) -> None:
    kept = folder / "run" / "metric.py"
    assert kept.read_text() == METRIC
    (folder / "metrics.py").write_text("def length(predictions, references):\n    return -1.0\n")
    with pytest.warns(MetricWarning, match=r"metrics\.py has changed since the job began"):
        log = resume_job(folder / "run", observer=SilentObserver(), budget={"trials": 7})
    values = [m.metrics["length"] for s in log.trials for m in s.curve if m.step == 8]
    assert len(log.trials) == 7
    assert all(value > 0 for value in values)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_job(tmp_path_factory.mktemp("checked"))


def changed(job: Path, **changes: Any) -> JobSpec:
    return load_job(job, {key.replace("__", "."): value for key, value in changes.items()})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "exact_macth"}, r"metric.*: 'exact_macth' is neither.*'exact_match'"),
        ({"metric": "metrics.py:lenght"}, "has no function 'lenght'; did you mean 'length'"),
        ({"metric": "metric.py:length"}, r"cannot be read.*did you mean 'metrics\.py'"),
        ({"task": "classification"}, "scores generated answers, and the task 'classification'"),
        ({"task": "seq2seq-lm"}, "a model for seq2seq-lm does not have"),
        ({"retention__data": "generel.jsonl"}, r"no file 'generel\.jsonl'.*'general\.jsonl'"),
        ({"retention__data": "metrics.py"}, "has no known ending"),
        ({"generation__rows": 0}, "rows"),
        ({"generation__max_token": 3}, "did you mean"),
    ],
)
def test_problems_are_told_at_once(job: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidJobError, match=message):
        changed(job, **changes)


def test_what_is_not_used_is_told(job: Path) -> None:
    assert not [w for w in find_warnings(changed(job)) if "generation" in w]
    spec = changed(job).model_copy(update={"metric": None})
    assert "generation is not used: no metric of generated answers is named" in find_warnings(spec)


def test_retention_is_wanted_by_name(job: Path) -> None:
    spec = changed(job)
    assert wants_retention(spec)
    spec = spec.model_copy(update={"retention": None})
    assert not wants_retention(spec)
    objectives = ("loss", "retention")
    assert wants_retention(spec.model_copy(update={"objectives": objectives}))


def test_an_unbuilt_model_is_told(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOPEFT_CACHE", str(tmp_path))
    spec = changed(job, model__name="builtin:docstring-lm")
    (told,) = [w for w in find_warnings(spec) if "not built yet" in w]
    assert "about 20 minutes on two idle cores, at most 25;" in told
    assert "`autopeft build docstring-lm`" in told
