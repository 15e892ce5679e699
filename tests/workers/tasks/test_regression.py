"""Regression against SciPy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from autopeft.errors import DataError
from autopeft.workers.dataset import DataSplits
from autopeft.workers.tasks.base import Task
from autopeft.workers.tasks.regression import Regression
from tests.workers.data.rows import make_splits
from tests.workers.tasks.contract import TaskContract


class TestRegressionContract(TaskContract):
    @pytest.fixture
    def task(self) -> Task:
        return Regression()

    @pytest.fixture
    def splits(self) -> DataSplits:
        return make_splits([0.5, 2.0, 5.0], [1.0, 4.5, 4.5, 0.0])

    @pytest.fixture
    def perfect(self, task: Task, splits: DataSplits) -> NDArray[np.float32]:
        return task.encode_labels(splits).labels["validation"][:, None].copy()


@given(seed=st.integers(0, 1000), num_rows=st.integers(3, 60), num_values=st.integers(2, 60))
def test_metrics_agree_with_scipy(seed: int, num_rows: int, num_values: int) -> None:
    generator = np.random.default_rng(seed)
    # Few values, hence many ties; the first two make sure that neither side is constant.
    labels = generator.integers(0, num_values, num_rows).astype(np.float32)
    outputs = generator.integers(0, num_values, (num_rows, 1)).astype(np.float32)
    labels[:2], outputs[:2, 0] = (0, 1), (0, 1)
    metrics = Regression().predictions_to_metrics(outputs, labels)
    expected = {
        "spearman": stats.spearmanr(outputs[:, 0], labels).statistic,
        "pearson": stats.pearsonr(outputs[:, 0].astype(np.float64), labels).statistic,
        "loss": np.mean((outputs[:, 0].astype(np.float64) - labels) ** 2),
    }
    assert metrics == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_correlation_does_not_depend_on_the_scale(scale: float, sign: float) -> None:
    labels = np.array([1.0, 2.0, 4.0, 8.0], dtype=np.float32)
    outputs = (sign * scale * labels[:, None]).astype(np.float32)
    metrics = Regression().predictions_to_metrics(outputs, labels)
    assert metrics["pearson"] == pytest.approx(sign, abs=1e-6)
    assert metrics["spearman"] == pytest.approx(sign, abs=1e-12)


def test_constant_outputs_have_no_correlation() -> None:
    labels = np.array([1.0, 2.0, 3.0], dtype=np.float32)
    outputs = np.full((3, 1), 0.1, dtype=np.float32)
    metrics = Regression().predictions_to_metrics(outputs, labels)
    assert (metrics["pearson"], metrics["spearman"]) == (0.0, 0.0)


def test_chance_is_the_mean_of_training() -> None:
    task = Regression()
    encoding = task.encode_labels(make_splits([1.0, 3.0], [0.0, 2.0]))
    assert task.chance_score(encoding, "loss") == -2.0
    assert task.chance_score(encoding, "spearman") == 0.0


def test_targets_keep_their_units() -> None:
    encoding = Regression().encode_labels(make_splits([0.25, 1000], [3, 4.5]))
    assert encoding.labels["train"].tolist() == [0.25, 1000.0]
    assert encoding.labels["train"].dtype == np.float32
    assert (encoding.num_outputs, encoding.id2label) == (1, None)


def test_texts_are_refused() -> None:
    with pytest.raises(DataError, match="split validation has the label 'high'"):
        Regression().encode_labels(make_splits([0.5, 1.0], ["high", 1.0]))


def test_two_outputs_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 1 outputs a row, received 2"):
        Regression().predictions_to_metrics(np.zeros((2, 2), np.float32), np.zeros(2))
