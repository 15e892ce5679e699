"""Columns of the tasks that read more than texts and a label: words, choices, media."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from autopeft.errors import DataError
from autopeft.workers.data.columns import (
    LABELS,
    SINGLES,
    ChosenColumns,
    check_exists,
    list_columns,
    refuse_all_but,
)
from autopeft.workers.data.table import Table
from autopeft.workers.settings import Columns
from autopeft.workers.task_names import (
    AUDIO_CLASSIFICATION,
    IMAGE_CLASSIFICATION,
    MULTIPLE_CHOICE,
    TOKEN_CLASSIFICATION,
)

TOKENS = ("tokens", "words")
TAGS = ("tags", "ner_tags", "labels", "label", "pos_tags", "upos")
CHOICES = ("choices", "options", "endings", "answers", "candidates")
#: What a multiple choice is about; what is asked about it may stand in a column of its own.
STEMS = (
    *("text", "premise", "question_stem", "stem", "ctx", "context", "sentence", "sent1"),
    *("passage", "question", "query"),
)
QUESTIONS = ("question", "query", "sent2")
ANSWERS = (*LABELS, "answerkey", "answer_key", "answer", "gold", "correct")
#: Never a column such as ``file``: its name may spell out the label.
IMAGES = (
    *("image", "img", "pixels", "pixel_values", "pixels_b64", "image_b64", "image_bytes"),
    *("picture", "photo", "image_path", "image_file"),
)
SOUNDS = (
    *("audio", "sound", "speech", "recording", "samples", "pcm16_b64", "audio_b64", "wav"),
    *("audio_path", "audio_file"),
)
SAMPLE_RATES = ("sample_rate", "sampling_rate", "rate")

#: Roles of single choices, where each stands in a column of its own: ``choice 1``, ...
CHOICE = "choice "
_NUMBERED = re.compile(r"(?P<stem>choice|option|ending|answer|sol|opt)_?(?P<number>\d+|[a-e])")


def choose_words(table: Table, wanted: Columns) -> ChosenColumns:
    """Return a column of lists of words, and as the label one of lists of tags.

    Raises:
        DataError: a named column does not exist, or none is found.
    """
    refuse_all_but(wanted, ("tokens", "tags"), f"task {TOKEN_CLASSIFICATION}")
    tokens = _one(table, wanted, "tokens", TOKENS)
    return ChosenColumns(
        inputs={"tokens": tokens}, label=_one(table, wanted, "tags", TAGS, taken=[tokens])
    )


def choose_choices(table: Table, wanted: Columns) -> ChosenColumns:
    """Return the columns of a multiple choice: text, maybe a question, choices, and the answer.

    Raises:
        DataError: a named column does not exist, or none is found.
    """
    refuse_all_but(wanted, ("text", "question", "choices", "label"), f"task {MULTIPLE_CHOICE}")
    label = _one(table, wanted, "label", ANSWERS)
    numbered = {} if wanted.choices else numbered_choices(table)
    choices = numbered or {"choices": _one(table, wanted, "choices", CHOICES, taken=[label])}
    taken = [label, *choices.values(), *([wanted.question] if wanted.question else [])]
    inputs = {"text": _one(table, wanted, "text", STEMS, taken=taken)}
    question = _find(table, wanted, "question", QUESTIONS, taken=[*taken, inputs["text"]])
    if question is not None:
        inputs["question"] = question
    return ChosenColumns(inputs={**inputs, **choices}, label=label)


def choose_image(table: Table, wanted: Columns) -> ChosenColumns:
    """Return a column of pictures and one of labels.

    Raises:
        DataError: a named column does not exist, or none is found.
    """
    refuse_all_but(wanted, ("image", "label"), f"task {IMAGE_CLASSIFICATION}")
    image = _one(table, wanted, "image", IMAGES)
    return ChosenColumns(
        inputs={"image": image}, label=_one(table, wanted, "label", LABELS, taken=[image])
    )


def choose_sound(table: Table, wanted: Columns) -> ChosenColumns:
    """Return a column of recordings, maybe one of sample rates, and one of labels.

    Raises:
        DataError: a named column does not exist, or none is found.
    """
    refuse_all_but(wanted, ("audio", "sample_rate", "label"), f"task {AUDIO_CLASSIFICATION}")
    inputs = {"audio": _one(table, wanted, "audio", SOUNDS)}
    rate = _find(table, wanted, "sample_rate", SAMPLE_RATES, taken=list(inputs.values()))
    if rate is not None:
        inputs["sample_rate"] = rate
    label = _one(table, wanted, "label", LABELS, taken=list(inputs.values()))
    return ChosenColumns(inputs=inputs, label=label)


def task_of_columns(table: Table, wanted: Columns) -> str | None:
    """Return the task that columns say by themselves, or None where they leave it open.

    Names alone do not tell: words, tags and choices must be lists, pictures and recordings
    bytes, arrays or base64.
    """
    if wanted.text or wanted.messages or wanted.completion:
        return None

    def has(role: str, candidates: Sequence[str], *kinds: type) -> bool:
        name = getattr(wanted, role) or next(iter(_present(table, candidates)), None)
        if name is None or name not in table.columns:
            return False
        return getattr(wanted, role) is not None or isinstance(table.columns[name][0], kinds)

    if has("tokens", TOKENS, list) and has("tags", TAGS, list):
        return TOKEN_CLASSIFICATION
    if has("choices", CHOICES, list, dict) and (_present(table, ANSWERS) or wanted.label):
        return MULTIPLE_CHOICE
    if _present(table, SINGLES):
        return None
    if has("image", IMAGES, dict, bytes, list) or "pixels_b64" in table.columns:
        return IMAGE_CLASSIFICATION
    if has("audio", SOUNDS, dict, bytes, list) or "pcm16_b64" in table.columns:
        return AUDIO_CLASSIFICATION
    return None


#: The task that a role among a split's columns stands for.
TASK_OF_ROLE: Mapping[str, str] = {
    "tokens": TOKEN_CLASSIFICATION,
    "choices": MULTIPLE_CHOICE,
    "image": IMAGE_CLASSIFICATION,
    "audio": AUDIO_CLASSIFICATION,
}


def numbered_choices(table: Table) -> dict[str, str]:
    """Return columns such as ``choice1``, ``choice2`` or ``ending0``, ... by role, in order."""
    found: dict[str, list[tuple[int, str]]] = {}
    for name in table.columns:
        match = _NUMBERED.fullmatch(name.casefold())
        if match is not None:
            number = match["number"]
            place = int(number) if number.isdigit() else ord(number) - ord("a")
            found.setdefault(match["stem"], []).append((place, name))
    for columns in found.values():
        places = sorted(place for place, _ in columns)
        if len(columns) >= 2 and places == list(range(places[0], places[0] + len(places))):
            return {f"{CHOICE}{i + 1}": name for i, (_, name) in enumerate(sorted(columns))}
    return {}


def _one(
    table: Table, wanted: Columns, role: str, candidates: Sequence[str], taken: Sequence[str] = ()
) -> str:
    found = _find(table, wanted, role, candidates, taken)
    if found is None:
        raise DataError(
            f"{table.origin}: cannot tell which column holds the {role}; it has "
            f"{list_columns(table)}, expected one of {', '.join(candidates)}",
            hint=f"name it in the job file: data: {{columns: {{{role}: ...}}}}",
        )
    return found


def _find(
    table: Table, wanted: Columns, role: str, candidates: Sequence[str], taken: Sequence[str] = ()
) -> str | None:
    name: str | None = getattr(wanted, role)
    if name is not None:
        check_exists(table, name, f"data.columns.{role}")
        return name
    return next((name for name in _present(table, candidates) if name not in taken), None)


def _present(table: Table, candidates: Sequence[str]) -> list[str]:
    by_folded: dict[str, Any] = {name.casefold(): name for name in table.columns}
    return [by_folded[name] for name in candidates if name in by_folded]
