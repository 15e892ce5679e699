from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from autopeft.records import MeasuredMemory
from autopeft.results import report
from autopeft.results.front import Constraint, ObjectiveScale
from autopeft.results.job_log import JobLog
from tests.results.jobs import SCALE, Scribe, example_job, make_trial

FRONT_KEYS = {
    "trial", "configuration", "seed", "score", "metric", "metric_value",
    "num_trainable_parameters", "num_adapter_parameters", "train_memory_bytes", "steps", "seconds",
}  # fmt: skip


@pytest.fixture(scope="module")
def log() -> JobLog:
    return example_job().log


def test_summary_counts_every_trial_once(log: JobLog) -> None:
    counts = report.summary(log)["trials"]

    assert counts == {"completed": 4, "stopped": 2, "infeasible": 1, "diverged": 1, "failed": 1}
    assert report.summary(log)["num_unfinished"] == 0
    assert sum(counts.values()) == len(log.states)


def test_summary_front_points_carry_the_promised_keys(log: JobLog) -> None:
    front = report.summary(log)["front"]

    assert [point["trial"] for point in front] == [0, 1, 2]
    assert all(set(point) >= FRONT_KEYS for point in front)
    best = front[0]
    assert best["score"] == best["metric_value"] == 0.92
    assert best["metric"] == "accuracy"
    assert (best["steps"], best["seconds"], best["seed"]) == (96, 3.0, 0)
    assert best["num_trainable_parameters"] == 900_000
    assert best["configuration"] == log.states[0].trial.configuration.to_json()


def test_summary_tells_last_score_from_best_score(log: JobLog) -> None:
    last = report.summary(log)["front"][2]
    assert (last["score"], last["best_score"]) == (0.7, 0.75)


def test_summary_says_what_the_job_was(log: JobLog) -> None:
    summary = report.summary(log)

    assert summary["job"] == "sst2"
    assert summary["is_finished"] is True
    assert summary["end_reason"] == "the budget of 9 trials is spent"
    assert summary["objectives"] == ["accuracy", "num_trainable_parameters", "train_memory_bytes"]
    assert 0.0 < summary["hypervolume"] < 1.0
    assert summary["seconds"] == 61.5
    assert summary["total_steps"] == 4 * 96 + 3 * 48


def test_summary_is_strict_json(log: JobLog) -> None:
    text = json.dumps(report.summary(log), allow_nan=False)
    assert json.loads(text) == report.summary(log)


def test_summary_of_a_job_that_has_not_begun() -> None:
    summary = report.summary(JobLog())

    assert summary["front"] == []
    assert summary["hypervolume"] is None
    assert summary["objectives"] is None
    assert set(summary["trials"].values()) == {0}
    json.dumps(summary, allow_nan=False)


def test_summary_leaves_trials_under_way_out_of_the_counts() -> None:
    scribe = Scribe()
    scribe.prepared()
    scribe.propose(make_trial(0))
    scribe.propose(make_trial(1))
    scribe.segment(1, 32)
    summary = report.summary(scribe.log)

    assert sum(summary["trials"].values()) == 0
    assert summary["num_unfinished"] == 2


def test_a_metric_where_less_is_better_keeps_its_own_sign() -> None:
    scale = ObjectiveScale(**{**{n: getattr(SCALE, n) for n in SCALE.__slots__}, "metric": "loss"})
    scribe = Scribe()
    scribe.prepared(scale, greater_is_better=False)
    scribe.propose(make_trial(0))
    scribe.measure(0, 96, -0.25, metrics={"loss": 0.25})
    scribe.decide(0, "complete")
    (point,) = report.summary(scribe.log)["front"]

    assert (point["score"], point["metric"], point["metric_value"]) == (-0.25, "loss", 0.25)


def test_a_front_point_holds_all_that_was_measured() -> None:
    scribe = Scribe()
    scribe.add("job", {"spec": {"name": "sft", "metric": "metrics.py:rouge"}, "versions": {}})
    scribe.prepared(replace(SCALE, metric="loss"), greater_is_better=False)
    scribe.propose(make_trial(0))
    measured = {"loss": 3.5, "rouge": 0.25, "retention": 0.125, "perplexity": math.inf}
    scribe.measure(0, 96, -3.5, metrics=measured)
    scribe.decide(0, "complete")
    (point,) = report.summary(scribe.log)["front"]

    assert (point["answer_metric"], point["answer_metric_value"]) == ("rouge", 0.25)
    assert point["metrics"] == {**measured, "perplexity": None}


def test_a_job_without_answers_says_so(log: JobLog) -> None:
    point = report.summary(log)["front"][0]
    assert (point["answer_metric"], point["answer_metric_value"]) == (None, None)
    assert point["metrics"] == {"accuracy": 0.92, "f1": 0.91, "train_loss": pytest.approx(0.08)}


def test_a_broken_constraint_is_a_reason() -> None:
    limit = Constraint(name="train_memory_bytes", maximum=300_000_000)
    scribe = Scribe()
    scribe.prepared(replace(SCALE, constraints=(limit,)))
    scribe.completed(make_trial(0, memory=400_000_000), (0.9,))
    scribe.completed(make_trial(1, memory=200_000_000), (0.8,))
    said = "train_memory_bytes is 400,000,000, asked is train_memory_bytes <= 300,000,000"
    summary = report.summary(scribe.log)

    assert list(report.trials_frame(scribe.log)["reason"]) == [f"not on the front: {said}", ""]
    assert summary["broken_constraints"] == {"0": [said]}
    assert summary["num_breaking_constraints"] == 1


def test_trials_frame_has_a_row_for_each_trial(log: JobLog) -> None:
    frame = report.trials_frame(log)

    assert list(frame.columns[: len(report.TRIAL_COLUMNS)]) == list(report.TRIAL_COLUMNS)
    assert list(frame["trial"]) == list(range(9))
    assert list(frame["status"][4:]) == ["stopped", "stopped", "infeasible", "diverged", "failed"]
    assert list(frame[frame["on_front"]]["trial"]) == [0, 1, 2]
    assert frame.loc[5, "reason"] == "still paused when the job ended: waits for others"
    assert list(frame["num_failures"][6:]) == [1, 0, 1]
    assert frame["score"].isna().tolist() == [False] * 6 + [True] * 3
    assert frame.loc[0, "lora.rank"] == 8
    assert frame.loc[0, "lora.layers"] == "0,1,2"
    assert frame.loc[0, "lora.sites"] == "q,v"
    assert frame.loc[0, "metric.f1"] == pytest.approx(0.91)
    assert frame.loc[5, "memory_bytes"] == 300 * 2**20


def test_front_frame_is_ordered_by_score(log: JobLog) -> None:
    frame = report.front_frame(log)

    metrics = ["metric.accuracy", "metric.f1", "metric.train_loss"]
    assert list(frame.columns) == [*report.FRONT_COLUMNS, *metrics]
    assert list(frame["metric.f1"]) == pytest.approx([0.91, 0.89, 0.69])
    assert list(frame["score"]) == [0.92, 0.90, 0.7]
    assert frame.loc[0, "configuration"] == str(log.states[0].trial.configuration)


def test_curves_frame_has_a_row_for_each_measurement(log: JobLog) -> None:
    frame = report.curves_frame(log)

    expected = [*report.CURVE_COLUMNS, "accuracy", "f1", "train_loss"]
    assert list(frame.columns) == expected
    assert len(frame) == sum(len(state.curve) for state in log.trials)
    first = frame[frame["trial"] == 0]
    assert list(first["step"]) == [48, 96]
    assert list(first["score"]) == [0.8, 0.92]
    assert np.isnan(frame.loc[frame["trial"] == 7, "score"]).all()


@pytest.mark.parametrize("name", ["trials_frame", "front_frame", "curves_frame"])
def test_frames_of_an_empty_job_have_their_columns(name: str) -> None:
    frame: pd.DataFrame = getattr(report, name)(JobLog())

    assert frame.empty
    assert "trial" in frame.columns


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"), (7, "7"), (999, "999"), (1000, "1.00 k"), (12_345, "12.3 k"),
        (999_400, "999 k"), (999_600, "1.00 M"), (22_713_216, "22.7 M"), (5e15, "5000 T"),
    ],
)  # fmt: skip
def test_counts_have_three_digits(number: float, text: str) -> None:
    assert report.count_text(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (432_013_312, "412 MiB")],
)
def test_bytes_are_in_powers_of_1024(number: float, text: str) -> None:
    assert report.bytes_text(number) == text


def test_best_score_ignores_what_is_not_finite(log: JobLog) -> None:
    assert math.isnan(report.best_score(log.states[7]))
    assert report.best_score(log.states[2]) == 0.75


def test_measured_memory_stands_beside_its_prediction() -> None:
    scribe = Scribe()
    scribe.job()
    scribe.prepared()
    mib = 2**20
    scribe.propose(make_trial(0, memory=200 * mib))
    scribe.propose(make_trial(1, memory=100 * mib))
    memory = MeasuredMemory(kind="accounted", peak_bytes=210 * mib, base_bytes=150 * mib)
    scribe.measure(0, 96, 0.7, memory_bytes=memory.peak_bytes, memory=memory)
    scribe.decide(0, "complete")
    facts = report.summary(scribe.log)
    calibration = facts["memory_calibration"]
    assert calibration["num_trials"] == 1
    assert calibration["median_ratio"] == pytest.approx(1.05)
    (point,) = facts["front"]
    assert point["train_memory_bytes"] == 200 * mib
    assert point["memory_bytes"] == point["expected_memory_bytes"] == 210 * mib
    assert point["memory_ratio"] == pytest.approx(1.05)
    assert (point["memory_kind"], point["base_memory_bytes"]) == ("accounted", 150 * mib)
    frame = report.trials_frame(scribe.log).set_index("trial")
    assert frame.loc[1, "expected_memory_bytes"] == round(calibration["factor"] * 100 * mib)
    assert "measured / predicted is 1.050" in str(report.calibration_text(scribe.log))


def test_the_error_of_quick_predictions_is_told(log: JobLog) -> None:
    assert report.memory_error_text(log) is None
    assert report.summary(log)["memory_error"] is None
    error = {"median": 0.0004, "worst": 0.021, "num_compared": 12}
    told = replace(log, prepared={**(log.prepared or {}), "memory_error": error})
    assert report.summary(told)["memory_error"] == error
    text = str(report.memory_error_text(told))
    assert "within 0.04 % (median) and 2.10 % (worst of 12 configurations)" in text
