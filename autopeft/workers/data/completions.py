"""Rows that a language model is fine-tuned on, as given, made sound."""

from __future__ import annotations

from typing import Any

from autopeft.errors import DataError
from autopeft.workers.data.columns import ChosenColumns
from autopeft.workers.data.conversations import (
    check_answered,
    question,
    read_column,
    read_conversation,
)
from autopeft.workers.data.splitting import text_key, text_keys
from autopeft.workers.data.table import Table
from autopeft.workers.data.texts import well_formed
from autopeft.workers.dataset import Rows


def make_language_rows(table: Table, columns: ChosenColumns, labels: list[Any]) -> Rows:
    """Return the columns by role: texts, or messages.

    A prompt may be an empty text: there are models that write without being asked.

    Raises:
        DataError: something is missing or of the wrong kind; the message names its place.
    """
    if "text" in columns.inputs:
        texts = [well_formed(text) for text in table.columns[columns.inputs["text"]]]
        return Rows(columns={"text": texts}, label=labels)
    is_chat = "messages" in columns.inputs or _holds_lists(table, columns.inputs["prompt"])
    found: dict[str, list[Any]] = {}
    for role, name in columns.inputs.items():
        if is_chat:
            found[role] = read_column(table, name, read_conversation)
        else:
            found[role] = [
                _read_text(value, table, row, name, role)
                for row, value in enumerate(table.columns[name])
            ]
        if is_chat and role != "prompt":
            for row, messages in enumerate(found[role]):
                check_answered(messages, table, row, name)
    return Rows(columns=found, label=labels)


def question_keys(rows: Rows) -> list[str]:
    """Return for each row the letters of what is asked: rows that share it stay together."""
    if "messages" in rows.columns:
        return [text_key(question(messages)) for messages in rows.columns["messages"]]
    if "prompt" not in rows.columns:
        return text_keys(rows)
    keys = []
    for row, prompt in enumerate(rows.columns["prompt"]):
        asked = question(prompt) if isinstance(prompt, list) else prompt
        # Rows that ask nothing are told apart by what they answer.
        keys.append(text_key(asked or str(rows.columns["completion"][row])))
    return keys


def _holds_lists(table: Table, column: str) -> bool:
    return any(isinstance(value, list | tuple) for value in table.columns[column])


def _read_text(value: Any, table: Table, row: int, column: str, role: str) -> str:
    where = f"{table.where(row)}: column {column!r}"
    if isinstance(value, str) and (value.strip() or role == "prompt"):
        return well_formed(value)
    if value is None or isinstance(value, str):
        raise DataError(
            f"{where}: the {role} is {'missing' if value is None else 'empty'}",
            hint="remove the row, or fill it in",
        )
    raise DataError(
        f"{where} holds a {type(value).__name__}; expected text",
        hint=f"name another column in data.columns.{role}",
    )
