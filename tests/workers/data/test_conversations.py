"""What counts as a conversation, and what is said of one that is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autopeft.errors import DataError
from autopeft.workers.data.conversations import question, read_conversation
from autopeft.workers.data.table import Table
from autopeft.workers.loading import load_splits
from autopeft.workers.settings import DataSettings
from autopeft.workers.tasks.base import infer_task
from tests.workers.data.rows import write_jsonl

USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "yes"}


def read(value: Any) -> list[dict[str, Any]]:
    return read_conversation(value, Table(columns={}, origin="file.jsonl", lines=[7]), 0, "chat")


@pytest.mark.parametrize(
    "value",
    [
        [USER, ANSWER],
        [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}],
        [{"role": "system", "content": ""}, USER, ANSWER],
        [{"role": "system", "content": None}, USER, {**ANSWER, "tool_calls": None}],
        [{"role": "user", "content": [{"type": "text", "text": "h"}, {"text": "i"}]}, ANSWER],
    ],
)
def test_usual_forms_are_read_alike(value: Any) -> None:
    assert read(value) == [USER, ANSWER]


def test_what_else_a_message_says_is_kept() -> None:
    call = {"role": "assistant", "tool_calls": [{"name": "f"}], "reasoning_content": "so"}
    tool = {"role": "tool", "content": ""}
    assert read([USER, call, tool]) == [USER, {**call, "content": ""}, tool]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, r"file\.jsonl, line 7: column 'chat' holds a NoneType; expected messages"),
        ("text", "holds a str; expected messages"),
        ([], "holds an empty list"),
        (["hi"], "message 1: is a str; expected a role and a content"),
        ([{"content": "hi"}], "message 1: has no role"),
        ([USER, {"role": "asistant", "content": "x"}], "2: has the unknown role 'asistant'; did"),
        ([USER, {"role": "assistant"}], "message 2: the content of the assistant is missing"),
        ([{"role": "user", "content": " "}], "message 1: the content of the user is empty"),
        ([{"role": "user", "content": 3}], "message 1: its content is a int; expected text"),
        ([{"role": "user", "content": [{"type": "image"}]}], "parts that are not text"),
    ],
)
def test_what_is_no_conversation_is_refused_with_its_place(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(value)


def test_the_question_is_what_precedes_the_first_answer() -> None:
    system = {"role": "system", "content": "be brief"}
    assert question([system, USER, ANSWER, USER]) == "be brief\nhi"


def load(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> Any:
    write_jsonl(folder / "train.jsonl", rows)
    data = DataSettings.model_validate({"train": "train.jsonl", **settings})
    return load_splits(data, base=folder, seed=0, task="causal-lm")


PAIRS = [{"prompt": f"question {i // 2}", "completion": f"answer {i}"} for i in range(60)]
CHATS = [
    {"messages": [{"role": "user", "content": f"question {i // 2}"}, ANSWER]} for i in range(60)
]


@pytest.mark.parametrize(
    ("rows", "columns", "names"),
    [
        (PAIRS, {}, ("prompt", "completion")),
        (CHATS, {}, ("messages",)),
        ([{"text": f"text {i // 2}", "id": i} for i in range(60)], {}, ("text",)),
        ([{"q": f"{i // 2}", "answer": "a"} for i in range(60)], {"prompt": "q"}, ("q", "answer")),
        (
            [{"prompt": c["messages"][:1], "completion": c["messages"][1:]} for c in CHATS],
            {},
            ("prompt", "completion"),
        ),
    ],
)
def test_columns_are_found_and_equal_questions_stay_together(
    tmp_path: Path, rows: list[dict[str, Any]], columns: dict[str, str], names: tuple[str, ...]
) -> None:
    splits = load(tmp_path, rows, columns=columns)

    assert splits.text_columns == names
    assert splits.label_column is None
    assert sum(len(split) for split in splits.splits.values()) == 60
    assert splits.provenance["num_texts_also_in_train"] == {"validation": 0, "test": 0}
    assert splits.fingerprint == load(tmp_path, rows, columns=columns).fingerprint


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "completion": " "}, r"line 2: column 'completion': the completion is emp"),
        ({"prompt": "p"}, r"train\.jsonl, line 2: column 'completion': the completion is missing"),
        ({"completion": "c"}, r"line 2: column 'prompt': the prompt is missing"),
        ({"prompt": "p", "completion": 3}, r"line 2: column 'completion' holds a int; expected te"),
        (
            {"prompt": "p", "completion": [ANSWER]},
            r"line 2: column 'completion' holds a list; expected te",
        ),
    ],
)
def test_a_row_that_lacks_something_is_refused_with_its_line(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path, [PAIRS[0], row, *PAIRS])


def test_a_conversation_without_an_answer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2: column 'messages' holds no message of the ass"):
        load(tmp_path, [CHATS[0], {"messages": [USER]}, *CHATS])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": "x"}, r"data\.columns\.label is 'x', which task causal-lm does not read"),
        ({"messages": "prompt", "text": "completion"}, "names messages and text; a language"),
        ({"prompt": "promt"}, "has no column 'promt', which data.columns.prompt names; did you"),
        ({"prompt": "completion"}, "cannot tell which columns are prompt and completion"),
    ],
)
def test_columns_that_do_not_go_together_are_refused(
    tmp_path: Path, columns: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path, PAIRS, columns=columns)


def test_parquet_holds_messages(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(CHATS), tmp_path / "chats.parquet")
    write_jsonl(tmp_path / "chats.jsonl", CHATS)
    parquet, jsonl = (
        load_splits(DataSettings(train=f"chats.{kind}"), base=tmp_path, seed=0, task="causal-lm")
        for kind in ("parquet", "jsonl")
    )

    assert parquet.fingerprint == jsonl.fingerprint


def test_csv_holds_prompts_but_no_messages(tmp_path: Path) -> None:
    lines = "\n".join(f"q{i},a{i}" for i in range(40))
    (tmp_path / "pairs.csv").write_text(f"prompt,completion\n{lines}\n", encoding="utf-8")
    data = DataSettings(train="pairs.csv")
    assert load_splits(data, base=tmp_path, seed=0, task="causal-lm").text_columns == (
        "prompt",
        "completion",
    )
    (tmp_path / "chats.csv").write_text(f"messages,id\n{lines}\n", encoding="utf-8")
    with pytest.raises(DataError, match="holds a str; expected messages"):
        load_splits(DataSettings(train="chats.csv"), base=tmp_path, seed=0, task="causal-lm")


@pytest.mark.parametrize(
    ("row", "columns", "message"),
    [
        (
            {"instruction": "a", "input": "b", "output": "c"},
            {},
            "the prompt may be in the column 'instruction' or 'input'",
        ),
        (
            {"prompt": "a", "answer": "b", "target": "c"},
            {},
            "the completion may be in the column 'target' or 'answer'",
        ),
    ],
)
def test_of_two_columns_none_is_left_out_unasked(
    tmp_path: Path, row: dict[str, str], columns: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path, [row] * 20, columns=columns)


@pytest.mark.parametrize(
    ("task", "columns", "message"),
    [
        ("classification", {"prompt": "prompt"}, "prompt is 'prompt', which a task with labels"),
        ("seq2seq-lm", {"messages": "prompt"}, "messages is 'prompt', which task seq2seq-lm does"),
    ],
)
def test_columns_of_other_tasks_are_refused(
    tmp_path: Path, task: str, columns: dict[str, str], message: str
) -> None:
    write_jsonl(tmp_path / "train.jsonl", PAIRS)
    data = DataSettings.model_validate({"train": "train.jsonl", "columns": columns})
    with pytest.raises(DataError, match=message):
        load_splits(data, base=tmp_path, seed=0, task=task)


@pytest.mark.parametrize("rows", [PAIRS, CHATS])
def test_rows_without_labels_are_for_a_language_model(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    write_jsonl(tmp_path / "train.jsonl", rows)
    splits = load_splits(DataSettings(train="train.jsonl"), base=tmp_path, seed=0, task="auto")

    assert infer_task(splits) == "causal-lm"
