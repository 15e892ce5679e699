"""Labels as given, made uniform: strings or integers for classes, floats for amounts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from autopeft.errors import DataError
from autopeft.workers.data.table import Table
from autopeft.workers.dataset import SplitName
from autopeft.workers.task_names import CLASSIFICATION, REGRESSION

#: So many different integers are classes whatever they are.
FEW_CLASSES = 20

_INTEGER = re.compile(r"[+-]?\d+")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_MISSING_WORDS = frozenset({"nan", "na", "n/a", "null", "none", "?", "-"})

Labels = dict[SplitName, list[Any]]


def read_labels(tables: Mapping[SplitName, Table], column: str, task: str) -> tuple[str, Labels]:
    """Return the task, found out where it is ``auto``, and uniform labels of every split.

    Raises:
        DataError: labels are missing, of mixed types, or do not fit the task; the message
            names the place.
    """
    labels: Labels = {split: list(table.columns[column]) for split, table in tables.items()}
    _parse_text_columns(tables, labels)
    for split, table in tables.items():
        labels[split] = [
            _plain(value, table, row, column) for row, value in enumerate(labels[split])
        ]
    kind = _common_kind(tables, labels, column)
    if task == "auto":
        everything = [value for values in labels.values() for value in values]
        names = (tables["train"].label_names or {}).get(column, ())
        is_named = kind is float and set(everything) <= set(range(len(names)))
        is_class = kind is str or is_named or looks_like_classes(everything)
        task = CLASSIFICATION if is_class else REGRESSION
    if task == REGRESSION:
        labels = _as_amounts(tables, labels, column)
    elif task == CLASSIFICATION:
        labels = _as_classes(tables, labels, column)
    return task, labels


def looks_like_classes(labels: Sequence[float]) -> bool:
    """Return whether numbers stand for classes rather than for amounts.

    They do where all are whole and either at most 20 of them differ, or they run from 0 or 1
    without a gap and each occurs twice or more on average.
    """
    if any(label != int(label) for label in labels):
        return False
    distinct = {int(label) for label in labels}
    if len(distinct) <= FEW_CLASSES:
        return True
    without_gap = min(distinct) in (0, 1) and max(distinct) - min(distinct) + 1 == len(distinct)
    return without_gap and 2 * len(distinct) <= len(labels)


def is_missing(value: Any) -> bool:
    """Return whether a value is not there: None, NaN or an empty text."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float | Decimal) and math.isnan(value))


def _parse_text_columns(tables: Mapping[SplitName, Table], labels: Labels) -> None:
    """Turn labels of files without types into numbers, where every one of them is a number."""
    untyped = [split for split, table in tables.items() if not table.is_typed]
    values = {value.strip() for split in untyped for value in labels[split]} - {""}
    numeric = {value for value in values if _NUMBER.fullmatch(value)}
    if not numeric or any(value.casefold() not in _MISSING_WORDS for value in values - numeric):
        return
    # 007 is a name, not the number 7.
    if any(_INTEGER.fullmatch(value) and str(int(value)) != value for value in numeric):
        return
    whole = all(_INTEGER.fullmatch(value) for value in numeric)
    for split in untyped:
        stripped = [value.strip() for value in labels[split]]
        labels[split] = [
            None if value not in numeric else int(value) if whole else float(value)
            for value in stripped
        ]


def _plain(value: Any, table: Table, row: int, column: str) -> str | int | float:
    if is_missing(value):
        raise DataError(
            f"{table.where(row)}: the label in column {column!r} is missing",
            hint="remove rows without a label, or give them one",
        )
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, Decimal):
        return float(value)
    if not isinstance(value, str | int | float):
        raise DataError(
            f"{table.where(row)}: the label in column {column!r} is a {type(value).__name__}; "
            "expected a text or a number",
            hint="name another column in data.columns.label, or take one label per row",
        )
    if isinstance(value, float) and math.isinf(value):
        raise DataError(
            f"{table.where(row)}: the label in column {column!r} is {value}; expected a number",
            hint="remove the row, or give it a finite label",
        )
    return value


def _common_kind(tables: Mapping[SplitName, Table], labels: Labels, column: str) -> type:
    """Return ``str`` or ``float``; both at once are refused."""
    first: dict[type, str] = {}
    for split, table in tables.items():
        for row, value in enumerate(labels[split]):
            kind = str if isinstance(value, str) else float
            if kind not in first:
                first[kind] = f"{value!r} ({table.where(row)})"
    if len(first) > 1:
        raise DataError(
            f"column {column!r} mixes texts and numbers: {first[str]}, {first[float]}",
            hint="write all labels as texts, or all as numbers",
        )
    return next(iter(first))


def _as_amounts(tables: Mapping[SplitName, Table], labels: Labels, column: str) -> Labels:
    amounts: Labels = {}
    for split, table in tables.items():
        amounts[split] = []
        for row, value in enumerate(labels[split]):
            if isinstance(value, str) and not _NUMBER.fullmatch(value.strip()):
                raise DataError(
                    f"{table.where(row)}: task regression expects numbers, column {column!r} "
                    f"holds {value!r}",
                    hint="task: classification, or name another column in data.columns.label",
                )
            amounts[split].append(_finite32(value, table, row, column))
    return amounts


def _finite32(value: Any, table: Table, row: int, column: str) -> float:
    """Return a float that is still finite in single precision, in which models are trained."""
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if abs(number) > 3.4e38:
        raise DataError(
            f"{table.where(row)}: the label in column {column!r} is {str(value)[:20]}; expected "
            "less than 3.4e38, the largest number in single precision",
            hint="rescale the labels",
        )
    return number


def _as_classes(tables: Mapping[SplitName, Table], labels: Labels, column: str) -> Labels:
    classes: Labels = {}
    for split, table in tables.items():
        classes[split] = []
        for row, value in enumerate(labels[split]):
            if isinstance(value, float) and not value.is_integer():
                raise DataError(
                    f"{table.where(row)}: task classification expects classes, column {column!r} "
                    f"holds the number {value}",
                    hint="task: regression, or name another column in data.columns.label",
                )
            classes[split].append(int(value) if isinstance(value, float) else value)
    _check_classes(classes, tables, column)
    return classes


def _check_classes(classes: Labels, tables: Mapping[SplitName, Table], column: str) -> None:
    train = classes["train"]
    distinct = set(train)
    origin = tables["train"].origin
    if len(distinct) == 1:
        raise DataError(
            f"{origin}: every label in column {column!r} is {train[0]!r}; expected at least two "
            "classes",
            hint="name another column in data.columns.label",
        )
    if len(distinct) > max(FEW_CLASSES, len(train) // 2):
        raise DataError(
            f"{origin}: column {column!r} holds {len(distinct)} different labels in {len(train)} "
            "rows; expected classes that occur several times",
            hint="name another column in data.columns.label, or set task: regression for numbers",
        )
