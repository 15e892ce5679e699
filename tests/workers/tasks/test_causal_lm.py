"""Causal language models: losses against transformers, packed against unpacked."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model

from autopeft.errors import DataError, InvalidJobError, ModelError
from autopeft.workers.data.language import encode_language
from autopeft.workers.dataset import EncodedSplit, Rows
from autopeft.workers.tasks.base import EncodingSettings
from autopeft.workers.tasks.causal_lm import CausalLanguageModel
from autopeft.workers.tasks.classification import Classification
from autopeft.workers.tasks.language_model import LanguageModelTask
from tests.workers import families, tiny_lm
from tests.workers.tasks.language import LanguageModelContract, batch_of

TOKENIZER = tiny_lm.make_tokenizer()
ROWS = Rows(
    columns={
        "prompt": ["one two three", "four", "five six one two"],
        "completion": [" four", " five six one two three", " six"],
    },
    label=[None] * 3,
)
PACKED = EncodingSettings(max_tokens=32, packing=True)


class TestCausalLanguageModelContract(LanguageModelContract):
    @pytest.fixture
    def task(self) -> LanguageModelTask:
        return CausalLanguageModel()

    @pytest.fixture
    def model(self) -> Any:
        return tiny_lm.make_model(len(TOKENIZER))

    @pytest.fixture
    def split(self) -> EncodedSplit:
        return encode_language(ROWS, TOKENIZER, 32)

    def reference_loss(self, model: Any, batch: dict[str, torch.Tensor]) -> float:
        with torch.no_grad():
            return float(model(**batch).loss)


@pytest.fixture(scope="module")
def split() -> EncodedSplit:
    return encode_language(tiny_lm.make_rows(12, 0), TOKENIZER, 32)


def mean_loss(model: Any, split: EncodedSplit) -> float:
    task = CausalLanguageModel()
    batch = batch_of(split, list(range(len(split))))
    with torch.no_grad():
        return float(task.loss(task.forward(model, batch), batch))


FAMILIES = ("gpt2", "llama", "qwen2", "qwen3", "mistral", "gemma", "gemma3", "mixtral")


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_examples_have_the_losses_they_have_alone(family: str, split: EncodedSplit) -> None:
    model = families.build(family, "causal-lm").eval()
    # The tiny families know fewer tokens than the tokenizer.
    few = min(config_vocabulary(model), len(TOKENIZER))
    small = with_tokens_below(split, few)
    packed = CausalLanguageModel().pack(small, PACKED)

    assert len(packed) < len(small)
    assert mean_loss(model, packed) == pytest.approx(mean_loss(model, small), abs=1e-5)


def config_vocabulary(model: Any) -> int:
    return int(model.config.get_text_config().vocab_size)


def with_tokens_below(split: EncodedSplit, num_tokens: int) -> EncodedSplit:
    fields = {
        name: replace(field, values=np.where(field.values < 0, -100, field.values % num_tokens))
        for name, field in split.fields.items()
    }
    return replace(split, fields=fields)


def test_only_positions_that_predict_get_logits() -> None:
    task, model = CausalLanguageModel(), tiny_lm.make_model(len(TOKENIZER))
    split = encode_language(ROWS, TOKENIZER, 32)
    batch = batch_of(split, [0, 2])
    outputs = task.forward(model, batch)

    assert batch["input_ids"].shape == (2, 8)
    # Answers start at the fourth and the fifth token and are two long.
    assert outputs.logits.shape[:2] == (2, 3)
    assert outputs.past_key_values is None


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"]),
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    ],
    ids=lambda config: str(config.peft_type.value),
)
def test_losses_under_peft_are_those_of_peft(config: Any) -> None:
    task = CausalLanguageModel()
    torch.manual_seed(0)
    model = get_peft_model(tiny_lm.make_model(len(TOKENIZER)), config).eval()
    batch = batch_of(encode_language(ROWS, TOKENIZER, 32), [0, 1, 2])
    with torch.no_grad():
        loss = task.loss(task.forward(model, batch), batch)
        expected = model(**batch).loss

    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig])
def test_what_goes_before_a_sequence_is_refused_with_packing(kind: Any) -> None:
    task = CausalLanguageModel()
    config = kind(task_type="CAUSAL_LM", num_virtual_tokens=2)
    model = get_peft_model(tiny_lm.make_model(len(TOKENIZER)), config)
    batch = batch_of(task.pack(encode_language(ROWS, TOKENIZER, 32), PACKED), [0])
    with pytest.raises(ModelError, match="goes before a sequence"):
        task.forward(model, batch)


def test_other_tasks_are_not_packed(split: EncodedSplit) -> None:
    with pytest.raises(InvalidJobError, match="packing is for causal language models"):
        Classification().pack(split, PACKED)
    assert CausalLanguageModel().pack(split, EncodingSettings(max_tokens=32)) is split


def test_on_the_meta_device_every_position_has_a_loss() -> None:
    logits = torch.empty((2, 8, 40), device="meta", requires_grad=True)
    labels = torch.empty((2, 8), dtype=torch.long, device="meta")
    losses, _ = CausalLanguageModel().token_losses(
        SimpleNamespace(logits=logits), {"labels": labels}
    )

    assert losses.shape == (14,)


def test_prompts_and_references_are_what_generation_needs() -> None:
    task, settings = CausalLanguageModel(), EncodingSettings(max_tokens=32)
    assert task.prompts(ROWS, TOKENIZER, settings) == TOKENIZER(ROWS.columns["prompt"])["input_ids"]
    assert task.references(ROWS) == ROWS.columns["completion"]
    texts = Rows.of_texts(["one"], [None])
    with pytest.raises(DataError, match="plain texts have no answers"):
        task.prompts(texts, TOKENIZER, settings)
    with pytest.raises(DataError, match="plain texts have no answers"):
        task.references(texts)
