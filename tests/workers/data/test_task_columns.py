from __future__ import annotations

from typing import Any

import pytest

from autopeft.errors import DataError
from autopeft.workers.data.columns import choose_columns
from autopeft.workers.data.table import Table
from autopeft.workers.data.task_columns import (
    choose_choices,
    choose_image,
    choose_sound,
    choose_words,
    numbered_choices,
    task_of_columns,
)
from autopeft.workers.settings import Columns


def table(**columns: Any) -> Table:
    return Table(columns={name: [value] for name, value in columns.items()}, origin="train.jsonl")


@pytest.mark.parametrize(
    ("columns", "task"),
    [
        ({"tokens": ["a"], "tags": [0]}, "token-classification"),
        ({"id": "0", "Tokens": ["a"], "ner_tags": [0], "pos_tags": [1]}, "token-classification"),
        ({"text": "t", "choices": ["a", "b"], "label": 0}, "multiple-choice"),
        (
            {"question": "q", "choices": {"text": [], "label": []}, "answerKey": "A"},
            "multiple-choice",
        ),
        ({"pixels_b64": "AAAA", "label": 0, "file": "cat/1"}, "image-classification"),
        ({"image": {"bytes": b"", "path": None}, "label": 0}, "image-classification"),
        ({"img": [[0]], "label": 0}, "image-classification"),
        ({"pcm16_b64": "AAAA", "sample_rate": 1, "label": 0}, "audio-classification"),
        ({"audio": {"array": [0.0]}, "label": 0}, "audio-classification"),
        ({"text": "t", "label": 0}, None),
        ({"text": "t", "tokens": "12", "tags": "news", "label": 0}, None),
        ({"text": "t", "image": [[0]], "label": 0}, None),
        ({"image": "a caption", "label": 0}, None),
        ({"file": "cat/1.png", "label": 0}, None),
        ({"prompt": "p", "completion": "c"}, None),
    ],
)
def test_the_task_is_told_by_columns_and_what_they_hold(
    columns: dict[str, Any], task: str | None
) -> None:
    assert task_of_columns(table(**columns), Columns()) == task


def test_columns_that_are_named_decide() -> None:
    rows = table(words_of_it=["a"], tags=[0], text="t")
    assert task_of_columns(rows, Columns(tokens="words_of_it")) == "token-classification"
    assert task_of_columns(rows, Columns(text="text")) is None


def test_words_and_tags_are_found() -> None:
    chosen = choose_words(table(id=1, tokens=["a"], pos_tags=[1], ner_tags=[0]), Columns())
    assert (dict(chosen.inputs), chosen.label) == ({"tokens": "tokens"}, "ner_tags")
    chosen = choose_words(table(tokens=["a"], ner_tags=[0], upos=[1]), Columns(tags="upos"))
    assert chosen.label == "upos"


@pytest.mark.parametrize(
    ("columns", "inputs", "label"),
    [
        (
            {"text": "t", "question": "cause", "choices": [], "label": 0},
            {"text": "text", "question": "question", "choices": "choices"},
            "label",
        ),
        (
            {"id": "1", "question": "q", "choices": {}, "answerKey": "A"},
            {"text": "question", "choices": "choices"},
            "answerKey",
        ),
        (
            {"ctx": "c", "endings": [], "label": "3"},
            {"text": "ctx", "choices": "endings"},
            "label",
        ),
        (
            {"premise": "p", "choice2": "b", "choice1": "a", "question": "q", "label": 0},
            {
                "text": "premise",
                "question": "question",
                "choice 1": "choice1",
                "choice 2": "choice2",
            },
            "label",
        ),
    ],
)
def test_parts_of_a_choice_are_found(
    columns: dict[str, Any], inputs: dict[str, str], label: str
) -> None:
    chosen = choose_choices(table(**columns), Columns())
    assert (dict(chosen.inputs), chosen.label) == (inputs, label)


def test_columns_are_numbered_choices_where_no_number_is_missing() -> None:
    assert list(numbered_choices(table(opa=1, option_b="b", option_a="a")).values()) == [
        *("option_a", "option_b")
    ]
    assert numbered_choices(table(choice1="a", choice3="b")) == {}
    assert numbered_choices(table(choice1="a")) == {}


def test_sounds_and_their_rates_are_found() -> None:
    rows = table(pcm16_b64="", sample_rate=8000, label=0, speaker="x", file="7_x.wav")
    chosen = choose_sound(rows, Columns())
    assert dict(chosen.inputs) == {"audio": "pcm16_b64", "sample_rate": "sample_rate"}
    assert chosen.label == "label"
    assert dict(choose_sound(table(speech="", y=0), Columns()).inputs) == {"audio": "speech"}


@pytest.mark.parametrize("choose", [choose_words, choose_choices, choose_image, choose_sound])
def test_columns_that_are_not_there_are_missed_with_a_hint(choose: Any) -> None:
    with pytest.raises(DataError, match="cannot tell which column holds the") as caught:
        choose(table(file="x", stuff=1, label=0), Columns())
    assert caught.value.hint is not None
    assert "data: {columns: {" in caught.value.hint


@pytest.mark.parametrize(
    ("choose", "columns", "task"),
    [
        (choose_words, Columns(text="t"), "task token-classification"),
        (choose_choices, Columns(messages="t"), "task multiple-choice"),
        (choose_image, Columns(audio="t"), "task image-classification"),
        (choose_sound, Columns(image="t"), "task audio-classification"),
        (choose_columns, Columns(image="t"), "a task with labels"),
    ],
)
def test_roles_of_other_tasks_are_refused(choose: Any, columns: Columns, task: str) -> None:
    with pytest.raises(DataError, match=rf"is 't', which {task} does not read"):
        choose(table(t=1), columns)


def test_a_named_column_must_exist() -> None:
    with pytest.raises(DataError, match=r"no column 'imge', which data.columns.image names; did"):
        choose_image(table(image=b"", label=0), Columns(image="imge"))


@pytest.mark.parametrize("name", ["file", "Path", "filename"])
def test_a_lone_text_that_names_files_is_not_taken_for_the_text(name: str) -> None:
    """Such a name may spell out the label."""
    with pytest.raises(DataError, match="cannot tell which column is the text"):
        choose_columns(table(**{name: "dog/0001.png", "label": "dog"}), Columns())
    chosen = choose_columns(table(**{name: "a", "label": "dog"}), Columns(text=name))
    assert chosen.inputs == {"text": name}
