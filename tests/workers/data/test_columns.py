"""Which columns are taken."""

from __future__ import annotations

import pytest

from autopeft.errors import DataError
from autopeft.workers.data.columns import choose_columns
from autopeft.workers.data.table import Table
from autopeft.workers.settings import Columns


def table(*names: str, **columns: list[object]) -> Table:
    return Table(columns={**{name: ["a"] for name in names}, **columns}, origin="train.jsonl")


@pytest.mark.parametrize(
    ("names", "text", "label"),
    [
        (("text", "label"), ("text",), "label"),
        (("label", "Sentence", "idx"), ("Sentence",), "label"),
        (("text_a", "text_b", "label"), ("text_a", "text_b"), "label"),
        (("idx", "premise", "hypothesis", "label"), ("premise", "hypothesis"), "label"),
        (("question", "sentence", "label"), ("question", "sentence"), "label"),
        (("question", "intent"), ("question",), "intent"),
        (("sentence1", "sentence2", "score"), ("sentence1", "sentence2"), "score"),
        (("utterance_en", "category"), ("utterance_en",), "category"),
        (("review", "rating", "label"), ("review",), "label"),
    ],
)
def test_columns_are_known_by_their_names(
    names: tuple[str, ...], text: tuple[str, ...], label: str
) -> None:
    chosen = choose_columns(table(*names), Columns())
    assert (chosen.text, chosen.label) == (text, label)


def test_named_columns_win_over_known_names() -> None:
    given = table("text", "label", "body", "topic")
    chosen = choose_columns(given, Columns(text="body", label="topic"))
    assert (chosen.text, chosen.label) == (("body",), "topic")
    chosen = choose_columns(given, Columns(text="body", text_pair="text"))
    assert (chosen.text, chosen.label) == (("body", "text"), "label")


def test_a_named_label_is_never_taken_for_a_text() -> None:
    chosen = choose_columns(table("text", "body"), Columns(label="text"))
    assert (chosen.text, chosen.label) == (("body",), "text")


@pytest.mark.parametrize(
    ("names", "wanted", "message"),
    [
        (("text", "label"), Columns(text="txet"), "no column 'txet'.*did you mean 'text'"),
        (("text", "label"), Columns(label="zzz"), "its columns are: text, label"),
        (("a", "b", "label"), Columns(), "which column is the text.*a, b, label"),
        (("text", "answer"), Columns(), "which column is the label.*text, answer"),
        (("text",), Columns(), "only the column text"),
        (("label",), Columns(), "which column is the text"),
        (("text", "label"), Columns(text="text", label="text"), "names one column twice"),
        (("text", "label"), Columns(text_pair="text"), r"data\.columns\.text is missing"),
    ],
)
def test_an_unclear_choice_is_refused(
    names: tuple[str, ...], wanted: Columns, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        choose_columns(table(*names), wanted)


def test_the_hint_lists_the_columns() -> None:
    with pytest.raises(DataError) as caught:
        choose_columns(table("text", "label"), Columns(label="class"))
    assert caught.value.hint == "its columns are: text, label"


def test_a_lone_column_of_text_is_taken_whatever_its_name() -> None:
    given = table(label=[1], number=[2], words=["a b c"])
    assert choose_columns(given, Columns()).text == ("words",)
