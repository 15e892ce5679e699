"""Which columns hold the texts and the label: named by the user, or known by their names."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autopeft.errors import DataError
from autopeft.naming import or_nearest
from autopeft.workers.data.table import DataWarning, Table
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

#: Columns that say where an example came from; such a name may spell out the label, so they are
#: read only where the user names them.
PLACES = frozenset(
    {"file", "files", "path", "paths", "filename", "file_name", "filepath", "file_path", "url"}
)

#: Columns of conversations, of what a language model is given, and of what it is to write.
MESSAGES: tuple[str, ...] = ("messages", "conversations", "conversation", "chat", "dialogue")
PROMPTS: tuple[str, ...] = ("prompt", "instruction", "input", "source", "question", "query")
COMPLETIONS: tuple[str, ...] = (
    "completion", "response", "output", "target", "answer", "summary", "chosen",
)  # fmt: skip

_HINT = "name the columns in the job file: data: {columns: {text: ..., label: ...}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenColumns:
    """Which columns are read.

    Attributes:
        inputs: Column by the role it plays: ``text`` and ``text_pair``, or what the task reads.
        label: The label column; None where the task has none.
    """

    inputs: Mapping[str, str]
    label: str | None

    @property
    def text(self) -> tuple[str, ...]:
        """The columns a model sees."""
        return tuple(self.inputs.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Every column that is read."""
        return self.text if self.label is None else (*self.text, self.label)


def choose_columns(table: Table, wanted: Columns) -> ChosenColumns:
    """Return the columns the user named, and infer those not named.

    Names are compared without regard to case. A text pair is inferred before a single text; a
    lone column of text is taken whatever its name, except one of :data:`PLACES`.

    Raises:
        DataError: a named column does not exist, or the choice is not clear.
    """
    refuse_all_but(wanted, ("text", "text_pair", "label"), "a task with labels")
    named = {"text": wanted.text, "text_pair": wanted.text_pair, "label": wanted.label}
    for role, name in named.items():
        if name is not None:
            check_exists(table, name, f"data.columns.{role}")
    given = [name for name in named.values() if name is not None]
    if len(set(given)) < len(given):
        raise DataError(f"data.columns names one column twice: {', '.join(given)}", hint=_HINT)
    label = wanted.label or _infer_label(table, taken=given)
    text = _named_text(wanted) or _infer_text(table, taken=[label])
    return ChosenColumns(inputs=dict(zip(("text", "text_pair"), text, strict=False)), label=label)


def is_for_language_model(table: Table, wanted: Columns) -> bool:
    """Return whether columns say by themselves that a language model is to be fine-tuned.

    They do where the user named messages or a completion, or where a column is called
    ``messages``, or two ``prompt`` and ``completion``, and no label is named.
    """
    if wanted.messages or wanted.completion:
        return True
    if wanted.label or wanted.text:
        return False
    names = {name.casefold() for name in table.columns}
    return "messages" in names or {"prompt", "completion"} <= names


def choose_messages(table: Table, wanted: Columns) -> ChosenColumns:
    """Return the columns a causal language model is fine-tuned on.

    Those the user named; else messages, prompt and completion, or a text, whichever is found
    first.

    Raises:
        DataError: a named column does not exist, some are named that do not go together, or
            none is found.
    """
    refuse_all_but(wanted, ("messages", "prompt", "completion", "text"), "task causal-lm")
    named = {
        role: name
        for role in ("messages", "prompt", "completion", "text")
        if (name := getattr(wanted, role)) is not None
    }
    for role, name in named.items():
        check_exists(table, name, f"data.columns.{role}")
    if set(named) in ({"messages"}, {"text"}, {"prompt", "completion"}):
        return ChosenColumns(inputs=named, label=None)
    if set(named) in ({"prompt"}, {"completion"}):
        return _choose_pair(table, wanted)
    if named:
        raise DataError(
            f"data.columns names {' and '.join(named)}; a language model is trained on messages, "
            "on prompt and completion, or on text",
            hint="name one of the three",
        )
    by_folded = {name.casefold(): name for name in table.columns}
    for candidate in MESSAGES:
        if candidate in by_folded:
            return ChosenColumns(inputs={"messages": by_folded[candidate]}, label=None)
    pair = _find_pair(table)
    if pair is not None:
        return ChosenColumns(inputs=pair, label=None)
    text = _infer_text(table, taken=[])[0]
    _warn_of_labels(table, text)
    return ChosenColumns(inputs={"text": text}, label=None)


def _warn_of_labels(table: Table, text: str) -> None:
    """Say that labels are not read, where a language model is trained on texts not named."""
    labels = [repr(name) for name in _present(table, LABELS) if name != text]
    if labels:
        warnings.warn(
            f"{table.origin}: a language model is trained on the column {text!r} alone, and "
            f"{' and '.join(labels)} left out. For predicting labels, set task: classification; "
            "for writing them, name data.columns.prompt and completion; where this is meant, set "
            f"data.columns.text: {text}",
            DataWarning,
            stacklevel=3,
        )


def choose_prompts(table: Table, wanted: Columns) -> ChosenColumns:
    """Return a column of prompts or sources and one of completions or targets.

    Raises:
        DataError: a named column does not exist, or the choice is not clear.
    """
    refuse_all_but(wanted, ("prompt", "completion"), "task seq2seq-lm")
    return _choose_pair(table, wanted)


def _choose_pair(table: Table, wanted: Columns) -> ChosenColumns:
    for role in ("prompt", "completion"):
        if getattr(wanted, role) is not None:
            check_exists(table, getattr(wanted, role), f"data.columns.{role}")
    pair = _find_pair(table, wanted.prompt, wanted.completion)
    if pair is None or pair["prompt"] == pair["completion"]:
        raise DataError(
            f"{table.origin}: cannot tell which columns are prompt and completion; it has "
            f"{list_columns(table)}",
            hint="name them in the job file: data: {columns: {prompt: ..., completion: ...}}",
        )
    return ChosenColumns(inputs=pair, label=None)


def _find_pair(
    table: Table, prompt: str | None = None, completion: str | None = None
) -> dict[str, str] | None:
    """Return a prompt column and a completion column, or None where one is lacking."""
    prompts = [name for name in _present(table, PROMPTS) if name != completion]
    completions = [name for name in _present(table, COMPLETIONS) if name != prompt]
    if not (prompt or prompts) or not (completion or completions):
        return None
    prompt = prompt or _only("prompt", prompts, table)
    completion = completion or _only("completion", completions, table)
    return {"prompt": prompt, "completion": completion}


def _present(table: Table, candidates: tuple[str, ...]) -> list[str]:
    by_folded = {name.casefold(): name for name in table.columns}
    return [by_folded[name] for name in candidates if name in by_folded]


def _only(role: str, found: list[str], table: Table) -> str:
    """Return the column of that name, or the only one: of two, neither is left out unasked."""
    if len(found) > 1 and found[0].casefold() != role:
        raise DataError(
            f"{table.origin}: the {role} may be in the column {' or '.join(map(repr, found))}",
            hint=f"name it in the job file: data: {{columns: {{{role}: {found[0]}}}}}; text that "
            "stands in two columns must be joined in one",
        )
    return found[0]


def refuse_all_but(wanted: Columns, roles: Sequence[str], task: str) -> None:
    """Raise ``DataError`` where the user named a column for a role that the task does not read."""
    for role in type(wanted).model_fields:
        name = getattr(wanted, role)
        if name is not None and role not in roles:
            raise DataError(
                f"data.columns.{role} is {name!r}, which {task} does not read",
                hint="leave it out, or set the task it is meant for",
            )


def check_columns(table: Table, columns: ChosenColumns) -> None:
    """Raise ``DataError`` unless another split has the columns chosen in training, too."""
    for name in columns.names:
        check_exists(table, name, "the training split")


def check_exists(table: Table, name: str, who: str) -> None:
    """Raise ``DataError`` unless ``who`` names a column that is there."""
    if name not in table.columns:
        raise DataError(
            f"{table.origin}: has no column {name!r}, which {who} names"
            f"{or_nearest(name, table.columns)}",
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
        f"{table.origin}: cannot tell which column is the label; it has {list_columns(table)}, "
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
    texts = [
        name for folded, name in by_folded.items() if folded not in PLACES and _is_text(table, name)
    ]
    if len(texts) == 1:
        return (texts[0],)
    raise DataError(
        f"{table.origin}: cannot tell which column is the text; it has {list_columns(table)}",
        hint=_HINT,
    )


def _is_text(table: Table, name: str) -> bool:
    return all(isinstance(value, str) for value in table.columns[name][:100])


def list_columns(table: Table) -> str:
    """Name the columns there are, for a message."""
    names = list(table.columns)
    return f"the columns {', '.join(names)}" if len(names) > 1 else f"only the column {names[0]}"
