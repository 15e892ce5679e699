"""Classification against scikit-learn, and its numbering of classes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, log_loss, matthews_corrcoef

from autopeft.errors import DataError
from autopeft.workers.dataset import DataSplits
from autopeft.workers.tasks.base import Task
from autopeft.workers.tasks.classification import Classification
from tests.workers.data.rows import make_splits
from tests.workers.tasks.contract import TaskContract


class TestClassificationContract(TaskContract):
    @pytest.fixture
    def task(self) -> Task:
        return Classification()

    @pytest.fixture
    def splits(self) -> DataSplits:
        return make_splits(["b", "a", "c", "b"], ["a", "b", "b", "c"])

    @pytest.fixture
    def perfect(self, task: Task, splits: DataSplits) -> NDArray[np.float32]:
        labels = task.encode_labels(splits).labels["validation"]
        outputs: NDArray[np.float32] = 100 * np.eye(3, dtype=np.float32)[labels]
        return outputs


@given(seed=st.integers(0, 1000), num_rows=st.integers(2, 60), num_classes=st.integers(2, 5))
def test_metrics_agree_with_scikit_learn(seed: int, num_rows: int, num_classes: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, num_classes, num_rows)
    labels[:2] = 0, 1  # scikit-learn warns where there is one class
    outputs = generator.normal(size=(num_rows, num_classes)).astype(np.float32)
    metrics = Classification().predictions_to_metrics(outputs, labels)
    called = outputs.argmax(axis=1)
    likely = np.exp(outputs.astype(np.float64))
    likely /= likely.sum(axis=1, keepdims=True)
    expected = {
        "accuracy": accuracy_score(labels, called),
        "f1": f1_score(labels, called, average="macro"),
        "matthews": matthews_corrcoef(labels, called),
        "loss": log_loss(labels, likely, labels=np.arange(num_classes)),
    }
    assert metrics == pytest.approx(expected, abs=1e-9)


def test_f1_does_not_depend_on_which_class_is_called_positive() -> None:
    labels = np.array([0, 0, 0, 1, 1])
    outputs = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [1, 0]], dtype=np.float32)
    task = Classification()
    swapped = task.predictions_to_metrics(outputs[:, ::-1], 1 - labels)
    metrics = task.predictions_to_metrics(outputs, labels)
    assert metrics["f1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert swapped["f1"] == pytest.approx(metrics["f1"])


def test_of_equal_outputs_the_lowest_class_wins() -> None:
    outputs, labels = np.zeros((4, 3), np.float32), np.zeros(4, np.int64)
    metrics = Classification().predictions_to_metrics(outputs, labels)
    assert metrics["accuracy"] == 1.0


def test_large_logits_do_not_overflow() -> None:
    outputs = np.array([[3e38, -3e38], [-3e38, 3e38]], dtype=np.float32)
    metrics = Classification().predictions_to_metrics(outputs, np.array([0, 1]))
    assert metrics["loss"] == 0.0


def test_chance_is_the_majority_of_training_on_validation() -> None:
    splits = make_splits(["a"] * 6 + ["b"] * 2, ["a", "b", "b", "b"])
    task = Classification()
    encoding = task.encode_labels(splits)
    assert task.chance_score(encoding, "accuracy") == 0.25
    assert task.chance_score(encoding, "f1") == pytest.approx(0.4 / 2)
    assert task.chance_score(encoding, "matthews") == 0.0
    expected = -np.mean(np.log([0.7, 0.3, 0.3, 0.3]))
    assert task.chance_score(encoding, "loss") == pytest.approx(-expected)


@pytest.mark.parametrize(
    ("labels", "id2label", "numbers"),
    [
        (["b", "a", "b", "10", "9"], ("10", "9", "a", "b"), [3, 2, 3, 0, 1]),
        ([10, 9, -1, 9, 10], ("-1", "9", "10"), [2, 1, 0, 1, 2]),
    ],
)
def test_classes_are_numbered_in_sorted_order(
    labels: list[str | int], id2label: tuple[str, ...], numbers: list[int]
) -> None:
    encoding = Classification().encode_labels(make_splits(labels, labels))
    assert encoding.id2label == id2label
    assert encoding.num_outputs == len(id2label)
    assert encoding.labels["train"].tolist() == numbers
    assert encoding.labels["train"].dtype == np.int64


def test_named_integers_are_their_own_numbers() -> None:
    names = ("none", "some", "many")
    encoding = Classification().encode_labels(make_splits([2, 0], [0, 2], label_names=names))
    assert encoding.id2label == names
    assert encoding.num_outputs == 3
    assert encoding.labels["train"].tolist() == [2, 0]


def test_a_class_with_a_name_may_be_missing_in_training() -> None:
    names = ("none", "some", "many")
    encoding = Classification().encode_labels(make_splits([2, 0], [1, 2], label_names=names))
    assert encoding.labels["validation"].tolist() == [1, 2]


def test_a_class_that_training_lacks_is_refused() -> None:
    with pytest.raises(DataError, match="split validation has labels that no training row has: c"):
        Classification().encode_labels(make_splits(["a", "b"], ["c", "a"]))
