"""Labels made uniform, and the task that they stand for."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from autopeft.errors import DataError
from autopeft.workers.data.labels import looks_like_classes, read_labels
from autopeft.workers.data.table import Table

NAN = float("nan")


def read(
    values: list[Any], task: str = "auto", *, is_typed: bool = True, names: tuple[str, ...] = ()
) -> tuple[str, list[Any]]:
    table = Table(
        columns={"label": values},
        origin="train.jsonl",
        is_typed=is_typed,
        label_names={"label": names} if names else None,
    )
    found, labels = read_labels({"train": table}, "label", task)
    return found, labels["train"]


@pytest.mark.parametrize(
    ("values", "task", "labels"),
    [
        (["b", "a", "b"], "classification", ["b", "a", "b"]),
        ([1, 0, 1], "classification", [1, 0, 1]),
        ([True, False], "classification", [1, 0]),
        ([1.0, 2.0], "classification", [1, 2]),
        ([-1, 1], "classification", [-1, 1]),
        ([0.5, 1, 2.0], "regression", [0.5, 1.0, 2.0]),
        ([Decimal("0.5"), Decimal("1")], "regression", [0.5, 1.0]),
        ([1990 + i for i in range(30)], "regression", [1990.0 + i for i in range(30)]),
        (list(range(77)) * 2, "classification", list(range(77)) * 2),
        (list(range(77)), "regression", [float(i) for i in range(77)]),
    ],
)
def test_the_task_is_found_out(values: list[Any], task: str, labels: list[Any]) -> None:
    found, uniform = read(values)
    assert (found, uniform) == (task, labels)
    assert [type(label) for label in uniform] == [type(label) for label in labels]


def test_named_integers_are_classes_however_many() -> None:
    names = tuple(f"class {i}" for i in range(50))
    assert read([2 * i for i in range(25)] * 2, names=names)[0] == "classification"
    assert read([100 + 2 * i for i in range(25)] * 2, names=names)[0] == "regression"
    assert read([0.5, 1.5], names=names)[0] == "regression"


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (["1", "0"], [1, 0]),
        ([" 1", "0 "], [1, 0]),
        (["1", "0", "x"], ["1", "0", "x"]),
        (["007", "008"], ["007", "008"]),
        (["0.5", "1e1"], [0.5, 10.0]),
        (["yes", "no"], ["yes", "no"]),
    ],
)
def test_numbers_of_a_csv_are_recognised(values: list[str], labels: list[Any]) -> None:
    assert read(values, is_typed=False)[1] == labels


def test_texts_of_json_stay_texts() -> None:
    assert read(["1", "0"])[1] == ["1", "0"]
    assert read(["1", "0.5"], task="regression")[1] == [1.0, 0.5]


@pytest.mark.parametrize(
    ("values", "task", "message"),
    [
        ([0, None, 1], "auto", "row 1: the label in column 'label' is missing"),
        ([0.0, NAN], "auto", "row 1: the label in column 'label' is missing"),
        (["a", " "], "auto", "row 1: the label in column 'label' is missing"),
        (["a", 1], "auto", r"mixes texts and numbers: 'a' \(train.jsonl, row 0\), 1 "),
        ([[1], [2]], "auto", "is a list; expected a text or a number"),
        ([0.5, float("inf")], "auto", "is inf"),
        (["a", "b"], "regression", "task regression expects numbers.*'a'"),
        ([0, 10**400], "regression", "expected less than 3.4e38"),
        ([0.5, 1e39], "regression", "expected less than 3.4e38"),
        ([0.5, 1.0], "classification", "row 0: task classification expects classes.*0.5"),
        ([1, 1, 1], "classification", "every label in column 'label' is 1"),
        ([f"text {i}" for i in range(50)], "auto", "50 different labels in 50 rows"),
        (list(range(0, 5000, 2)), "classification", "2500 different labels"),
    ],
)
def test_labels_that_do_not_fit_are_refused(values: list[Any], task: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(values, task)


@pytest.mark.parametrize("word", ["nan", "NA", "null", ""])
def test_a_gap_in_a_csv_of_numbers_is_a_missing_label(word: str) -> None:
    with pytest.raises(DataError, match="row 2: the label in column 'label' is missing"):
        read(["0.5", "1.5", word], is_typed=False)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1], True),
        ([0.0, 1.5], False),
        (list(range(1, 101)) * 2, True),
        (list(range(5, 105)) * 2, False),
        (list(range(100)), False),
    ],
)
def test_whole_numbers_are_classes_where_few_or_without_a_gap(
    values: list[float], expected: bool
) -> None:
    assert looks_like_classes(values) is expected
