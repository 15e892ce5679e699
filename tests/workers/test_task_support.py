"""Which models may have which heads."""

from __future__ import annotations

from typing import Any

import pytest

from autopeft.errors import ModelError
from autopeft.workers.model_sources import ModelSource
from autopeft.workers.task_support import check_supports, is_encoder
from tests.workers import families

SOURCE = ModelSource(location="here", public_name="some-model")

SUPPORTED = [
    (families.bert, "classification"),
    (families.bert, "token-classification"),
    (families.gpt2, "causal-lm"),
    (families.llama, "causal-lm"),
    (families.t5, "seq2seq-lm"),
    (families.vit, "image-classification"),
    (families.ast, "audio-classification"),
]
REFUSED = [
    (families.bert, "causal-lm", "an encoder of type bert, which has no causal language model"),
    (families.roberta, "causal-lm", "an encoder of type roberta"),
    (families.bert, "seq2seq-lm", "has no seq2seq language model head"),
    (
        families.t5,
        "causal-lm",
        "a model of type t5, which has no causal.*: .*seq2seq-lm",
    ),
    (families.vit, "classification", "trained for: image-classification"),
]


@pytest.mark.parametrize(("config", "task"), SUPPORTED)
def test_a_model_has_the_heads_transformers_has_for_it(config: Any, task: str) -> None:
    check_supports(SOURCE, config(), task)


@pytest.mark.parametrize(("config", "task", "expected"), REFUSED)
def test_another_head_is_refused_with_what_there_is(config: Any, task: str, expected: str) -> None:
    with pytest.raises(ModelError, match=expected):
        check_supports(SOURCE, config(), task)


def test_code_of_the_model_is_not_judged() -> None:
    config = families.bert()
    config.auto_map = {"AutoModelForSeq2SeqLM": "code.Model"}
    check_supports(SOURCE, config, "seq2seq-lm")


def test_an_encoder_made_a_decoder_is_none() -> None:
    config = families.bert()
    assert is_encoder(config)
    config.is_decoder = True
    assert not is_encoder(config)
    check_supports(SOURCE, config, "causal-lm")
