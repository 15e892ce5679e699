"""Texts to tokens, with a real fast tokenizer over a vocabulary of a few words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autopeft.errors import ModelError
from autopeft.workers.data import encode_splits
from autopeft.workers.data.tokenization import encode_texts
from autopeft.workers.dataset import Rows
from autopeft.workers.tasks.base import EncodingSettings
from autopeft.workers.tasks.classification import Classification
from tests.workers.data.rows import make_splits

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "train", "validation", "test", "0", "1"]
PAD, UNK, CLS, SEP, A, B, C = range(7)

SETTINGS = EncodingSettings(max_tokens=8)


def make_tokenizer(**settings: Any) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    given = {"pad_token": "[PAD]", "unk_token": "[UNK]", **settings}
    return PreTrainedTokenizerFast(tokenizer_object=words, **given)


def examples(split: Any) -> list[list[int]]:
    field = split.fields["input_ids"]
    return [field.example(i).tolist() for i in range(len(field))]


def test_single_texts() -> None:
    rows = Rows.of_texts(["a b", "c", "a strange b"], [0, 1, 0])
    labels = np.array([0, 1, 0])
    names = ["input_ids", "attention_mask"]
    split = encode_texts(rows, labels, make_tokenizer(model_input_names=names), 8)
    assert examples(split) == [[CLS, A, B, SEP], [CLS, C, SEP], [CLS, A, UNK, B, SEP]]
    assert split.lengths.tolist() == [4, 3, 5]
    assert "token_type_ids" not in split.fields
    assert split.labels is labels
    assert split.fields["input_ids"].values.dtype == np.int32
    offsets = split.fields["input_ids"].offsets
    assert offsets is not None
    assert offsets.dtype == np.int64


def test_pairs_have_token_types_where_the_model_knows_them() -> None:
    rows = Rows.of_texts(["a b"], [0], ["c"])
    names = ["input_ids", "token_type_ids", "attention_mask"]
    split = encode_texts(rows, np.array([0]), make_tokenizer(model_input_names=names), 8)
    assert examples(split) == [[CLS, A, B, SEP, C, SEP]]
    types = split.fields["token_type_ids"].values
    assert types.tolist() == [0, 0, 0, 0, 1, 1]
    assert types.dtype == np.int8


@pytest.mark.parametrize("max_tokens", [4, 5, 7])
def test_long_texts_are_truncated(max_tokens: int) -> None:
    rows = Rows.of_texts(["a " * 20, "b"], [0, 0], ["c", "c " * 20])
    split = encode_texts(rows, np.array([0, 0]), make_tokenizer(), max_tokens)
    assert split.lengths.tolist() == [max_tokens, max_tokens]
    if max_tokens > 4:
        assert examples(split)[0][-2:] == [C, SEP]


def test_the_test_split_stays_closed_unless_asked_for() -> None:
    splits = make_splits([0, 1], [0, 1], test=[1, 0])
    encoding = Classification().encode_labels(splits)
    searched = encode_splits(Classification(), splits, encoding, make_tokenizer(), SETTINGS)
    final = encode_splits(
        Classification(), splits, encoding, make_tokenizer(), SETTINGS, score_on="test"
    )
    assert WORDS[examples(searched.validation)[0][1]] == "validation"
    assert WORDS[examples(final.validation)[0][1]] == "test"
    assert final.validation.labels.tolist() == [1, 0]
    assert WORDS[examples(searched.train)[0][1]] == "train"
    assert searched.pad_token_id == PAD


def test_many_rows_keep_their_order() -> None:
    texts = ["a b c"[: 1 + 2 * (i % 3)] for i in range(5000)]
    rows = Rows.of_texts(texts, [0] * 5000)
    split = encode_texts(rows, np.zeros(5000, np.int64), make_tokenizer(), 8)
    assert split.lengths.tolist() == [3 + i % 3 for i in range(5000)]


def test_a_tokenizer_that_cannot_pad_is_refused_or_ends_texts_instead() -> None:
    splits = make_splits([0, 1], [0, 1])
    encoding = Classification().encode_labels(splits)
    with pytest.raises(ModelError, match="neither a padding token"):
        encode_splits(Classification(), splits, encoding, make_tokenizer(pad_token=None), SETTINGS)
    ends = make_tokenizer(pad_token=None, eos_token="[SEP]")
    assert encode_splits(Classification(), splits, encoding, ends, SETTINGS).pad_token_id == SEP
