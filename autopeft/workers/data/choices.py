"""Rows of multiple choice, and pairs of texts made of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopeft.errors import DataError
from autopeft.workers.data.columns import ChosenColumns
from autopeft.workers.data.labels import is_missing
from autopeft.workers.data.table import Table
from autopeft.workers.data.task_columns import CHOICE
from autopeft.workers.data.texts import well_formed
from autopeft.workers.data.tokenization import encode_texts
from autopeft.workers.dataset import EncodedSplit, Field, Rows

#: What COPA asks, in words.
QUESTIONS = {"cause": "What was the cause?", "effect": "What happened as a result?"}


def make_choice_rows(table: Table, columns: ChosenColumns, labels: list[Any]) -> Rows:
    """Return texts, questions, lists of choices, and the place of the right one from 0.

    Choices are a list of texts, or as ARC has them ``{"text": [...], "label": ["A", ...]}``;
    an answer is a place from 0, a letter from A, or one of those labels.

    Raises:
        DataError: something is missing or of the wrong kind, or an answer is no choice.
    """
    assert columns.label is not None
    made: dict[str, list[Any]] = {
        role: [
            _text(value, table.where(row), columns.inputs[role])
            for row, value in enumerate(table.columns[columns.inputs[role]])
        ]
        for role in ("text", "question")
        if role in columns.inputs
    }
    made["choices"] = []
    places: list[int] = []
    for row, label in enumerate(labels):
        where = table.where(row)
        choices, names = _choices(table, columns, row)
        made["choices"].append([_text(choice, where, "choices") for choice in choices])
        places.append(_place(label, names, len(choices), where, columns.label))
    return Rows(columns=made, label=places)


def _choices(table: Table, columns: ChosenColumns, row: int) -> tuple[list[Any], list[Any] | None]:
    """Return the choices of a row, and what the source calls them."""
    single = [name for role, name in columns.inputs.items() if role.startswith(CHOICE)]
    if single:
        return [table.columns[name][row] for name in single], None
    name = columns.inputs["choices"]
    value: Any = table.columns[name][row]
    names: Any = None
    if isinstance(value, dict):
        value, names = value.get("text"), value.get("label")
    if not isinstance(value, list) or len(value) < 2:
        raise DataError(
            f"{table.where(row)}: column {name!r} holds {_shown(value)}; expected a list of two "
            "texts or more",
            hint="name another column in data.columns.choices",
        )
    if not isinstance(names, list) or len(names) != len(value):
        names = None
    return value, names


def _text(value: Any, where: str, column: str) -> str:
    if not isinstance(value, str) or is_missing(value):
        raise DataError(
            f"{where}: {column} holds {_shown(value)}; expected text",
            hint="remove the row, or name other columns in data.columns",
        )
    return well_formed(value)


def _place(label: Any, names: list[Any] | None, num: int, where: str, column: str) -> int:
    place: Any = label
    if names is not None and label in names:
        return names.index(label)
    if isinstance(label, str):
        text = label.strip()
        if len(text) == 1 and "A" <= text.upper() <= "Z":
            place = ord(text.upper()) - ord("A")
        elif text.isdecimal():
            place = int(text)
    if isinstance(place, float) and place.is_integer():
        place = int(place)
    if not isinstance(place, int) or not 0 <= place < num:
        raise DataError(
            f"{where}: the answer in column {column!r} is {_shown(label)}; expected a place from "
            f"0 to {num - 1}, or a letter from A to {chr(ord('A') + num - 1)}",
            hint="count choices from 0, or name another column in data.columns.label",
        )
    return int(place)


def stems(rows: Rows) -> list[str]:
    """Return the text of each row with what is asked about it."""
    questions = rows.columns.get("question")
    if questions is None:
        return list(rows.text)
    return [
        f"{text} {QUESTIONS.get(question.strip().casefold(), question)}"
        for text, question in zip(rows.text, questions, strict=True)
    ]


def encode_choices(
    rows: Rows, labels: NDArray[Any], tokenizer: Any, max_tokens: int, mask: str
) -> EncodedSplit:
    """Return a pair of texts for each choice, and a field ``mask`` of those that are there.

    Every example has as many sequences as the row with the most choices; where one has fewer,
    the text alone stands for a choice, cut to its first word.
    """
    choices = rows.columns["choices"]
    width = max(map(len, choices))
    first: list[str] = []
    second: list[str] = []
    is_choice = np.zeros((len(rows), width), dtype=np.bool_)
    for row, (stem, these) in enumerate(zip(stems(rows), choices, strict=True)):
        num_absent = width - len(these)
        first += [stem] * len(these) + [stem.split(maxsplit=1)[0]] * num_absent
        second += [*these, *([""] * num_absent)]
        is_choice[row, : len(these)] = True
    pairs = Rows.of_texts(first, [0] * len(first), second)
    encoded = encode_texts(pairs, np.zeros(len(first), np.int64), tokenizer, max_tokens)
    fields = {**encoded.fields, mask: Field(values=is_choice.reshape(-1))}
    return replace(encoded, fields=fields, labels=labels, num_sequences=width)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
