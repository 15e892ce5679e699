"""Texts as given, made sound: empty ones left out, broken characters replaced."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from typing import Any

from autopeft.errors import DataError
from autopeft.workers.data.columns import ChosenColumns
from autopeft.workers.data.labels import is_missing
from autopeft.workers.data.table import DataWarning, Table
from autopeft.workers.dataset import Rows

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def without_empty_texts(table: Table, columns: ChosenColumns) -> tuple[Table, int]:
    """Return the rows whose texts are all there, and how many are not.

    Raises:
        DataError: a text is not text, or most rows have an empty one.
    """
    full = list(range(len(table)))
    for name in columns.text:
        values = table.columns[name]
        for row in full:
            if not isinstance(values[row], str) and not is_missing(values[row]):
                raise DataError(
                    f"{table.where(row)}: column {name!r} holds a {type(values[row]).__name__}; "
                    "expected text",
                    hint="name another column in data.columns.text",
                )
        full = [row for row in full if not is_missing(values[row])]
    num_empty = len(table) - len(full)
    if num_empty == 0:
        return table, 0
    present = set(full)
    first = table.where(next(row for row in range(len(table)) if row not in present))
    if 2 * num_empty > len(table):
        raise DataError(
            f"{table.origin}: {num_empty} of {len(table)} rows have an empty text, the first is "
            f"{first}",
            hint="name another column in data.columns.text, or repair the file",
        )
    warnings.warn(
        f"{table.origin}: left out {num_empty} rows with an empty text, the first is {first}",
        DataWarning,
        stacklevel=3,
    )
    columns_left = {name: [values[i] for i in full] for name, values in table.columns.items()}
    lines = None if table.lines is None else [table.lines[i] for i in full]
    return replace(table, columns=columns_left, lines=lines), num_empty


def make_rows(table: Table, columns: ChosenColumns, labels: list[Any]) -> Rows:
    """Return the texts of a table beside labels that are already uniform."""
    labels = [well_formed(label) if isinstance(label, str) else label for label in labels]
    texts = {
        role: [well_formed(text) for text in table.columns[name]]
        for role, name in columns.inputs.items()
    }
    return Rows(columns=texts, label=labels)


def well_formed(text: str) -> str:
    """Return ``text`` with halves of surrogate pairs, which JSON can hold, made whole or U+FFFD."""
    if not _LONE_SURROGATE.search(text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
