"""Encoder-decoders: losses against transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from transformers import T5Config, T5ForConditionalGeneration

from autopeft.errors import InvalidJobError
from autopeft.workers.dataset import EncodedSplit
from autopeft.workers.tasks.base import EncodingSettings
from autopeft.workers.tasks.language_model import LanguageModelTask
from autopeft.workers.tasks.seq2seq_lm import SequenceToSequence
from tests.workers import tiny_lm
from tests.workers.tasks.language import LanguageModelContract, batch_of
from tests.workers.tasks.test_causal_lm import ROWS

TOKENIZER = tiny_lm.make_tokenizer(starts_texts=True, pad_token="</s>")
SETTINGS = EncodingSettings(max_tokens=6)


def make_t5() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = T5Config(
            vocab_size=len(TOKENIZER),
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=1,
            pad_token_id=1,
            initializer_factor=0.5,
        )
        return T5ForConditionalGeneration(config).eval()


def encode() -> EncodedSplit:
    return SequenceToSequence().encode(ROWS, np.zeros(3), TOKENIZER, SETTINGS)


class TestSequenceToSequenceContract(LanguageModelContract):
    @pytest.fixture
    def task(self) -> LanguageModelTask:
        return SequenceToSequence()

    @pytest.fixture
    def model(self) -> Any:
        return make_t5()

    @pytest.fixture
    def split(self) -> EncodedSplit:
        return encode()

    def reference_loss(self, model: Any, batch: dict[str, torch.Tensor]) -> float:
        with torch.no_grad():
            return float(model(**batch).loss)


def test_source_and_target_are_cut_at_their_ends() -> None:
    split = encode()
    assert split.lengths.tolist() == [4, 2, 5]
    assert split.labels.tolist() == [2, 6, 2]
    target = split.fields["labels"].example(1).tolist()
    assert target == TOKENIZER(text_target=ROWS.columns["completion"][1])["input_ids"][:6]
    batch = batch_of(split, [0, 1])
    assert batch["labels"][0].tolist()[2:] == [-100] * 6
    assert batch["attention_mask"][1].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(task_type="SEQ_2_SEQ_LM", r=2, target_modules=["q"]),
        PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3),
    ],
    ids=lambda config: str(config.peft_type.value),
)
def test_losses_under_peft_are_those_of_peft(config: Any) -> None:
    task = SequenceToSequence()
    torch.manual_seed(0)
    model = get_peft_model(make_t5(), config).eval()
    batch = batch_of(encode(), [0, 1, 2])
    with torch.no_grad():
        loss = task.loss(task.forward(model, batch), batch)
        expected = model(**batch).loss

    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_forward_pass_on_the_meta_device_has_a_loss() -> None:
    task, model = SequenceToSequence(), make_t5().to("meta")
    tokens = torch.empty((2, 8), dtype=torch.long, device="meta")
    batch = {"input_ids": tokens, "labels": tokens}

    assert task.loss(task.forward(model, batch), batch).shape == ()


def test_sources_and_targets_are_what_generation_needs() -> None:
    task = SequenceToSequence()
    assert task.prompts(ROWS, TOKENIZER, SETTINGS)[1] == TOKENIZER("four")["input_ids"]
    assert task.references(ROWS) == ROWS.columns["completion"]


def test_there_is_no_packing() -> None:
    with pytest.raises(InvalidJobError, match="the task is seq2seq-lm"):
        SequenceToSequence().pack(encode(), EncodingSettings(max_tokens=6, packing=True))
