"""Names of tasks and metrics, and the orientation of scores."""

from __future__ import annotations

import subprocess
import sys

import pytest

from autopeft.errors import AutopeftError, DataError
from autopeft.workers.tasks.base import TASKS, infer_task, oriented
from autopeft.workers.tasks.metric_names import DEFAULT_METRICS, METRIC_NAMES, METRICS_BY_TASK
from tests.workers.data.rows import make_splits


def test_metric_names_agree_with_the_tasks() -> None:
    assert {name: TASKS.get(name).metrics for name in METRICS_BY_TASK} == METRICS_BY_TASK
    defaults = {name: TASKS.get(name).default_metric for name in METRICS_BY_TASK}
    assert defaults == DEFAULT_METRICS
    assert DEFAULT_METRICS["classification"] == "accuracy"
    assert DEFAULT_METRICS["regression"] == "spearman"
    assert DEFAULT_METRICS["causal-lm"] == DEFAULT_METRICS["seq2seq-lm"] == "loss"
    assert {"accuracy", "f1", "loss", "matthews", "pearson", "perplexity", "spearman"} <= set(
        METRIC_NAMES
    )


@pytest.mark.parametrize(
    ("task", "metric", "score"),
    [
        ("classification", "accuracy", 0.5),
        ("classification", "loss", -0.5),
        ("regression", "spearman", 0.5),
        ("regression", "loss", -0.5),
        ("causal-lm", "perplexity", -0.5),
    ],
)
def test_a_score_is_oriented_upward(task: str, metric: str, score: float) -> None:
    assert oriented(task, metric, 0.5) == score
    assert oriented(TASKS.get(task)(), metric, 0.5) == score


def test_a_metric_of_another_task_is_refused() -> None:
    with pytest.raises(DataError, match="classification has no metric 'spearman'"):
        oriented("classification", "spearman", 0.5)
    with pytest.raises(AutopeftError, match="did you mean 'regression'"):
        oriented("regresion", "loss", 0.5)


@pytest.mark.parametrize(
    ("labels", "task"),
    [(["a", "b"], "classification"), ([0, 1], "classification"), ([0.0, 1.0], "regression")],
)
def test_the_task_is_told_from_the_type_of_labels(labels: list[object], task: str) -> None:
    assert infer_task(make_splits(labels, labels)) == task


@pytest.mark.parametrize("module", ["tasks.metric_names", "tasks.classification", "data"])
def test_names_and_data_need_no_torch(module: str) -> None:
    code = f"import sys, autopeft.workers.{module}; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
