"""Lists of words with a tag each, as rows and as tokens."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopeft.errors import DataError
from autopeft.workers.data.columns import ChosenColumns
from autopeft.workers.data.table import DataWarning, Table
from autopeft.workers.data.tags import as_bio, is_prefixed
from autopeft.workers.data.texts import well_formed
from autopeft.workers.data.tokenization import NUM_ROWS_AT_ONCE, padding_token, ragged
from autopeft.workers.dataset import INPUT_IDS, Field, Rows


def without_empty_lists(table: Table, column: str) -> tuple[Table, int]:
    """Return the rows whose list is not empty, and how many are left out."""
    full = [row for row, value in enumerate(table.columns[column]) if value]
    num_empty = len(table) - len(full)
    if num_empty == 0:
        return table, 0
    if not full:
        raise DataError(
            f"{table.origin}: column {column!r} is empty in every row",
            hint="name another column in data.columns.tokens",
        )
    warnings.warn(
        f"{table.origin}: left out {num_empty} rows without words", DataWarning, stacklevel=3
    )
    columns = {name: [values[i] for i in full] for name, values in table.columns.items()}
    lines = None if table.lines is None else [table.lines[i] for i in full]
    return replace(table, columns=columns, lines=lines), num_empty


def make_word_rows(table: Table, columns: ChosenColumns, labels: list[Any]) -> Rows:
    """Return words and tags; numbers by their names where the source or the job tells them.

    Raises:
        DataError: words are no lists of texts, tags are no lists of as many texts or numbers, or
            there is no name for a number.
    """
    assert columns.label is not None
    column = columns.inputs["tokens"]
    names = (table.label_names or {}).get(columns.label)
    words: list[list[str]] = []
    tags: list[list[Any]] = []
    for row, (these, those) in enumerate(zip(table.columns[column], labels, strict=True)):
        _check_words(these, table.where(row), column)
        _check_tags(those, these, table.where(row), columns.label)
        words.append([well_formed(word) for word in these])
        tags.append(_named(those, names, table.where(row)))
    if is_prefixed({tag for row in tags for tag in row}):
        tags = [[as_bio(tag) for tag in row] for row in tags]
    return Rows(columns={"tokens": words}, label=tags)


def _check_words(words: Any, where: str, column: str) -> None:
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise DataError(
            f"{where}: column {column!r} holds {_shown(words)}; expected a list of words",
            hint="name another column in data.columns.tokens",
        )


def _check_tags(tags: Any, words: list[str], where: str, column: str) -> None:
    is_list = isinstance(tags, list) and bool(tags)
    kinds = {str if isinstance(tag, str) else type(tag) for tag in tags} if is_list else set()
    if not is_list or kinds not in ({str}, {int}):
        raise DataError(
            f"{where}: column {column!r} holds {_shown(tags)}; expected a list of tags, all names "
            "or all numbers",
            hint="name another column in data.columns.tags",
        )
    if len(tags) != len(words):
        raise DataError(
            f"{where}: there are {len(tags)} tags for {len(words)} words",
            hint="give each word one tag",
        )


def _named(tags: list[Any], names: tuple[str, ...] | None, where: str) -> list[Any]:
    if names is None or isinstance(tags[0], str):
        return list(tags)
    strange = next((tag for tag in tags if not 0 <= tag < len(names)), None)
    if strange is not None:
        raise DataError(
            f"{where}: holds the tag {strange}, but there are {len(names)} names, for 0 to "
            f"{len(names) - 1}",
            hint="name every tag: data: {label_names: [O, B-..., I-...]}",
        )
    return [names[tag] for tag in tags]


def encode_words(
    rows: Sequence[list[str]], tokenizer: Any, max_tokens: int
) -> tuple[dict[str, Field], list[NDArray[np.int64]]]:
    """Tokenise lists of words.

    Args:
        rows: The words of each example.
        tokenizer: A fast tokenizer of transformers.
        max_tokens: Longer examples are cut, special tokens included.

    Returns:
        The fields of the model's inputs, and for each example the word that each token begins,
        -1 where it begins none.
    """
    has_types = "token_type_ids" in tokenizer.model_input_names
    if "ByteLevel" in repr(tokenizer.backend_tokenizer.pre_tokenizer):
        # Such a tokenizer tells words apart by the blank before them.
        rows = [[words[0], *(f" {word}" for word in words[1:])] for words in rows]
    ids: list[Any] = []
    types: list[Any] = []
    first: list[NDArray[np.int64]] = []
    for start in range(0, len(rows), NUM_ROWS_AT_ONCE):
        chunk = [list(words) for words in rows[start : start + NUM_ROWS_AT_ONCE]]
        encoded = tokenizer(
            chunk,
            is_split_into_words=True,
            truncation=True,
            max_length=max_tokens,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=has_types,
        )
        ids += encoded[INPUT_IDS]
        types += encoded["token_type_ids"] if has_types else []
        first += [_first_tokens(encoded.word_ids(i)) for i in range(len(chunk))]
    fields = {INPUT_IDS: ragged(ids, np.int32, padding_token(tokenizer))}
    if has_types:
        fields["token_type_ids"] = ragged(types, np.int8)
    return fields, first


def _first_tokens(word_ids: Sequence[int | None]) -> NDArray[np.int64]:
    words = np.array([-1 if word is None else word for word in word_ids], dtype=np.int64)
    before = np.concatenate([[-1], words[:-1]])
    first: NDArray[np.int64] = np.where(words == before, -1, words)
    return first


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
