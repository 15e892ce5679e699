"""Which columns hold the texts and the label: named by the user, or known by their names."""

from __future__ import annotations

from dataclasses import dataclass

from autopeft.errors import DataError
from autopeft.naming import did_you_mean
from autopeft.workers.data.table import Table
from autopeft.workers.settings import Columns

PAIRS: tuple[tuple[str, str], ...] = (
    ("text_a", "text_b"),
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("sentence_a", "sentence_b"),
    ("text1", "text2"),
    ("text_1", "text_2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("question", "passage"),
    ("question", "context"),
    ("question", "answer"),
    ("query", "passage"),
    ("query", "document"),
    ("text", "text_pair"),
)
SINGLES: tuple[str, ...] = (
    "text", "sentence", "content", "review", "document", "docstring", "utterance", "tweet",
    "comment", "question", "query", "title",
)  # fmt: skip
LABELS: tuple[str, ...] = (
    "label", "labels", "target", "class", "category", "intent", "sentiment", "score",
    "similarity", "similarity_score", "rating", "stars", "y",
)  # fmt: skip

_HINT = "name the columns in the job file: data: {columns: {text: ..., label: ...}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenColumns:
    """The one or two text columns and the label column."""

    text: tuple[str, ...]
    label: str


def choose_columns(table: Table, wanted: Columns) -> ChosenColumns:
    """Return the columns the user named, and infer those not named.

    Names are compared without regard to case. A text pair is inferred before a single text; a
    lone column of text is taken whatever its name.

    Raises:
        DataError: a named column does not exist, or the choice is not clear.
    """
    named = {"text": wanted.text, "text_pair": wanted.text_pair, "label": wanted.label}
    for role, name in named.items():
        if name is not None:
            _check_exists(table, name, f"data.columns.{role}")
    given = [name for name in named.values() if name is not None]
    if len(set(given)) < len(given):
        raise DataError(f"data.columns names one column twice: {', '.join(given)}", hint=_HINT)
    label = wanted.label or _infer_label(table, taken=given)
    text = _named_text(wanted) or _infer_text(table, taken=[label])
    return ChosenColumns(text=text, label=label)


def check_columns(table: Table, columns: ChosenColumns) -> None:
    """Raise ``DataError`` unless another split has the columns chosen in training, too."""
    for name in (*columns.text, columns.label):
        _check_exists(table, name, "the training split")


def _check_exists(table: Table, name: str, who: str) -> None:
    if name not in table.columns:
        raise DataError(
            f"{table.origin}: has no column {name!r}, which {who} names"
            f"{did_you_mean(name, table.columns)}",
            hint=f"its columns are: {', '.join(table.columns)}",
        )


def _named_text(wanted: Columns) -> tuple[str, ...] | None:
    if wanted.text is None:
        if wanted.text_pair is not None:
            raise DataError(
                f"data.columns.text_pair is {wanted.text_pair!r}, but data.columns.text is missing",
                hint="name the column with the first text of the pair, too",
            )
        return None
    return (wanted.text,) if wanted.text_pair is None else (wanted.text, wanted.text_pair)


def _infer_label(table: Table, taken: list[str]) -> str:
    by_folded = {name.casefold(): name for name in table.columns if name not in taken}
    for candidate in LABELS:
        if candidate in by_folded:
            return by_folded[candidate]
    raise DataError(
        f"{table.origin}: cannot tell which column is the label; it has {_list(table)}, "
        f"expected one of {', '.join(LABELS)}",
        hint=_HINT,
    )


def _infer_text(table: Table, taken: list[str]) -> tuple[str, ...]:
    by_folded = {name.casefold(): name for name in table.columns if name not in taken}
    for first, second in PAIRS:
        if first in by_folded and second in by_folded:
            return by_folded[first], by_folded[second]
    for candidate in SINGLES:
        if candidate in by_folded:
            return (by_folded[candidate],)
    texts = [name for name in by_folded.values() if _is_text(table, name)]
    if len(texts) == 1:
        return (texts[0],)
    raise DataError(
        f"{table.origin}: cannot tell which column is the text; it has {_list(table)}", hint=_HINT
    )


def _is_text(table: Table, name: str) -> bool:
    return all(isinstance(value, str) for value in table.columns[name][:100])


def _list(table: Table) -> str:
    names = list(table.columns)
    return f"the columns {', '.join(names)}" if len(names) > 1 else f"only the column {names[0]}"
