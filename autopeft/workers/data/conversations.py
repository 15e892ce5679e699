"""Conversations as given, made uniform: lists of messages with a role and a content."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autopeft.errors import DataError
from autopeft.naming import or_nearest
from autopeft.workers.data.table import Table
from autopeft.workers.data.texts import well_formed

Message = dict[str, Any]

ASSISTANT = "assistant"
ROLES = ("system", "developer", "user", ASSISTANT, "tool")
#: Names roles go by elsewhere.
_ALIASES = {"human": "user", "gpt": ASSISTANT, "bot": ASSISTANT, "model": ASSISTANT}

_EXAMPLE = '[{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]'


def read_conversation(value: Any, table: Table, row: int, column: str) -> list[Message]:
    """Return a conversation as messages that a chat template takes.

    ``from`` and ``value`` are read as ``role`` and ``content``; contents in parts are joined
    where all parts are text. A system message that says nothing is left out.

    Raises:
        DataError: it is no list of messages, a role is unknown, or a message says nothing; the
            message names the place.
    """
    where = f"{table.where(row)}: column {column!r}"
    if not isinstance(value, list | tuple) or not value:
        shown = "an empty list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"
        raise DataError(
            f"{where} holds {shown}; expected messages",
            hint=f"write each conversation as {_EXAMPLE}; CSV cannot hold them, JSON lines can",
        )
    messages = []
    for number, entry in enumerate(value, start=1):
        message = _message(entry, f"{where}, message {number}")
        if message["role"] == "system" and not message["content"]:
            continue
        _check_says_something(message, f"{where}, message {number}")
        messages.append(message)
    return messages


def check_answered(messages: Sequence[Message], table: Table, row: int, column: str) -> None:
    """Raise ``DataError`` unless the assistant says something: there is nothing to learn else."""
    if not any(message["role"] == ASSISTANT for message in messages):
        raise DataError(
            f"{table.where(row)}: column {column!r} holds no message of the assistant",
            hint="remove the row, or add the answer that is to be learnt",
        )


def question(messages: Sequence[Message]) -> str:
    """Return what is said before the assistant answers for the first time."""
    said = []
    for message in messages:
        if message["role"] == ASSISTANT:
            break
        said.append(str(message["content"] or ""))
    return "\n".join(said)


def read_column(
    table: Table, column: str, read: Callable[[Any, Table, int, str], Any]
) -> list[Any]:
    """Return a column, each value read by ``read``."""
    return [read(value, table, row, column) for row, value in enumerate(table.columns[column])]


def _message(entry: Any, where: str) -> Message:
    if not isinstance(entry, Mapping):
        raise DataError(
            f"{where}: is a {type(entry).__name__}; expected a role and a content",
            hint=f"write each conversation as {_EXAMPLE}",
        )
    message = {key: value for key, value in entry.items() if value is not None}
    if "role" not in message and "from" in message:
        message["role"] = message.pop("from")
    if "content" not in message and "value" in message:
        message["content"] = message.pop("value")
    role = message.get("role")
    role = _ALIASES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        raise DataError(
            f"{where}: has {'no role' if role is None else f'the unknown role {role!r}'}"
            f"{or_nearest(role, ROLES) if isinstance(role, str) else ''}",
            hint=f"roles are: {', '.join(ROLES)}",
        )
    content = _text(message.get("content"), where)
    others = {key: value for key, value in message.items() if key not in ("role", "content")}
    return {"role": role, "content": content, **others}


def _text(content: Any, where: str) -> str | None:
    if isinstance(content, list | tuple):
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) < len(parts):
            raise DataError(
                f"{where}: its content has parts that are not text",
                hint="leave images and sounds out: a language model is trained on text",
            )
        content = "".join(texts)
    if content is not None and not isinstance(content, str):
        raise DataError(
            f"{where}: its content is a {type(content).__name__}; expected text",
            hint="write contents as text",
        )
    return None if content is None else well_formed(content)


def _check_says_something(message: Message, where: str) -> None:
    content = message["content"]
    if content is not None and content.strip():
        return
    if message["role"] == "tool" or message.get("tool_calls"):
        message["content"] = content or ""
        return
    raise DataError(
        f"{where}: the content of the {message['role']} is "
        f"{'missing' if content is None else 'empty'}",
        hint="remove the message or the row, or fill the content in",
    )
