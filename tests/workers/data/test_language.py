"""Which tokens are trained on, token by token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autopeft.errors import ModelError
from autopeft.workers.data import DataWarning
from autopeft.workers.data.chat import TEMPLATES
from autopeft.workers.data.language import (
    NOT_TRAINED,
    encode_language,
    prompt_tokens,
    reference_texts,
)
from autopeft.workers.dataset import EncodedSplit, Rows
from tests.workers import tiny_lm
from tests.workers.data.test_chat import CASES


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_lm.make_tokenizer()


def rows_of(**columns: list[Any]) -> Rows:
    return Rows(columns=columns, label=[None] * len(next(iter(columns.values()))))


def shown(split: EncodedSplit, row: int, tokenizer: Any) -> list[str]:
    """Return the tokens of an example; those trained on stand in angle quotes."""
    ids = split.fields["input_ids"].example(row)
    labels = split.fields["labels"].example(row)
    assert np.all((labels == ids) | (labels == NOT_TRAINED))
    texts = tokenizer.batch_decode([[i] for i in ids.tolist()])
    return [f"«{t}»" if n != NOT_TRAINED else t for t, n in zip(texts, labels, strict=True)]


def test_a_conversation_token_by_token(tokenizer: Any) -> None:
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two three"},
        {"role": "user", "content": "four"},
        {"role": "assistant", "content": "five"},
    ]
    split = encode_language(rows_of(messages=[messages]), tokenizer, 64)

    assert shown(split, 0, tokenizer) == [
        "<|im_start|>", "user", "\n", "one", "<|im_end|>", "\n",
        "<|im_start|>", "assistant", "\n", "«two»", "« three»", "«<|im_end|>»", "\n",
        "<|im_start|>", "user", "\n", "four", "<|im_end|>", "\n",
        "<|im_start|>", "assistant", "\n", "«five»", "«<|im_end|>»", "\n",
    ]  # fmt: skip
    assert split.labels.tolist() == [5]


@pytest.mark.parametrize("name", CASES)
def test_trained_tokens_are_what_the_template_marks(name: str, tokenizer: Any) -> None:
    template, messages, marked = CASES[name]
    split = encode_language(rows_of(messages=[messages]), tokenizer, 512, template)
    trained = [part.split("»")[0] for part in marked.split("«")[1:]]
    ids, labels = (split.fields[key].example(0) for key in ("input_ids", "labels"))

    assert tokenizer.decode(ids) == marked.replace("«", "").replace("»", "")
    assert tokenizer.decode(labels[labels != NOT_TRAINED]) == "".join(trained)
    assert split.labels.tolist() == [int((labels != NOT_TRAINED).sum())]


@pytest.mark.parametrize("content", ["wörld", "日本語", "🙂", "a\n\nb ", "<|im_start|>user\n"])
def test_letters_of_several_tokens_are_trained_whole(content: str, tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "é"}, {"role": "assistant", "content": content}]
    split = encode_language(rows_of(messages=[messages]), tokenizer, 128)
    labels = split.fields["labels"].example(0)

    assert tokenizer.decode(labels[labels != NOT_TRAINED]) == f"{content}<|im_end|>"


def test_a_completion_token_by_token() -> None:
    tokenizer = tiny_lm.make_tokenizer(starts_texts=True)
    rows = rows_of(prompt=["one two", ""], completion=[" three", "four"])
    split = encode_language(rows, tokenizer, 16)

    assert shown(split, 0, tokenizer) == ["<s>", "one", " two", "« three»", "«</s>»"]
    assert shown(split, 1, tokenizer) == ["<s>", "«four»", "«</s>»"]
    assert split.labels.tolist() == [2, 2]
    assert split.rows is None


def test_a_prompt_keeps_the_tokens_it_has_in_generation(tokenizer: Any) -> None:
    rows = rows_of(prompt=["one t"], completion=["wo"])
    split = encode_language(rows, tokenizer, 16)
    prompt = prompt_tokens(rows, tokenizer, 16)[0]

    assert tokenizer("one two")["input_ids"][: len(prompt)] != prompt
    assert split.fields["input_ids"].example(0)[: len(prompt)].tolist() == prompt
    assert "".join(shown(split, 0, tokenizer)[len(prompt) :]) in ("«wo»«</s>»", "«w»«o»«</s>»")


def test_a_text_is_trained_on_but_for_its_first_token(tokenizer: Any) -> None:
    split = encode_language(rows_of(text=["one two", "three"]), tokenizer, 16)

    assert shown(split, 0, tokenizer) == ["one", "« two»", "«</s>»"]
    assert shown(split, 1, tokenizer) == ["three", "«</s>»"]
    assert split.labels.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("prompt", "num_twos", "expected"),
    [
        ("one three", 2, "<s> one three «two» «two» «</s>»"),
        # The prompt gives way first, and keeps its start token and its end ...
        ("one three four five six user", 2, "<s> four five six user «two» «two» «</s>»"),
        # ... but never less than half of the tokens; then the completion loses its end.
        ("one three", 12, "<s> one three «two» «two» «two» «two» «two»"),
        ("one three four five six", 12, "<s> four five six «two» «two» «two» «two»"),
    ],
)
def test_long_prompts_and_completions_are_cut(prompt: str, num_twos: int, expected: str) -> None:
    tokenizer = tiny_lm.make_tokenizer(starts_texts=True)
    split = encode_language(rows_of(prompt=[prompt], completion=[" two" * num_twos]), tokenizer, 8)

    assert " ".join(shown(split, 0, tokenizer)).replace("  ", " ").replace("« ", "«") == expected


def test_what_is_cut_away_whole_is_left_out_and_counted(tokenizer: Any) -> None:
    ask = {"role": "user", "content": "one " * 20}
    short = {"role": "user", "content": "one"}
    answer = {"role": "assistant", "content": "two"}
    rows = rows_of(messages=[[ask, answer], [short, answer], [short, answer, ask, answer]])
    with pytest.warns(DataWarning, match="left out: 1 of 3 rows have no token to train on within"):
        split = encode_language(rows, tokenizer, 16)

    assert split.rows is not None
    assert split.rows.tolist() == [1, 2]
    assert split.lengths.tolist() == [12, 16]
    assert split.labels.tolist() == [2, 2]
    with pytest.raises(ModelError, match=r"2 of 2 rows have no token .*max_tokens 8"):
        encode_language(rows.take([0, 0]), tokenizer, 8)


def test_only_the_answer_of_a_conversational_prompt_is_trained_on(tokenizer: Any) -> None:
    shot = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    rows = rows_of(
        prompt=[[*shot, {"role": "user", "content": "three"}]],
        completion=[[{"role": "assistant", "content": "four"}]],
    )
    split = encode_language(rows, tokenizer, 64)
    labels = split.fields["labels"].example(0)

    assert tokenizer.decode(labels[labels != NOT_TRAINED]) == "four<|im_end|>"
    assert reference_texts(rows) == ["four"]


@pytest.mark.parametrize("template", ["chatml", "plain"])
def test_a_prompt_is_the_example_up_to_the_last_answer(template: str, tokenizer: Any) -> None:
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
        {"role": "assistant", "content": "four"},
        {"role": "user", "content": "five"},
    ]
    rows = rows_of(messages=[messages, messages[:2]])
    split = encode_language(rows, tokenizer, 128, TEMPLATES[template])
    prompts = prompt_tokens(rows, tokenizer, 128, TEMPLATES[template])

    assert reference_texts(rows) == ["four", "two"]
    for row, prompt in enumerate(prompts):
        ids, labels = (split.fields[key].example(row) for key in ("input_ids", "labels"))
        assert ids[: len(prompt)].tolist() == prompt
        assert labels[len(prompt) - 1] == NOT_TRAINED
        assert labels[len(prompt)] != NOT_TRAINED


def test_long_prompts_lose_their_beginning() -> None:
    tokenizer = tiny_lm.make_tokenizer(starts_texts=True)
    rows = rows_of(prompt=["one two three four five six"], completion=["x"])
    whole = tokenizer("one two three four five six")["input_ids"]

    assert prompt_tokens(rows, tokenizer, 4) == [[whole[0], *whole[-3:]]]


def test_a_slow_tokenizer_cannot_tell_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny_lm.make_tokenizer()
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    rows = rows_of(messages=[[{"role": "user", "content": "a"}]])
    with pytest.raises(ModelError, match="does not tell which characters a token stands for"):
        encode_language(rows, tokenizer, 16)
