"""A Llama of a few thousand weights with a byte-level tokenizer, and rows for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from autopeft.workers.data import encode_splits
from autopeft.workers.data.chat import TEMPLATES
from autopeft.workers.dataset import DataSplits, Rows
from autopeft.workers.models import load_config, resolve_model
from autopeft.workers.settings import ModelSettings, TrainingSettings, WorkerSettings
from autopeft.workers.shapes import model_shape
from autopeft.workers.tasks.base import TASKS, EncodingSettings
from autopeft.workers.worker import WorkerPlan

SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
WORDS = ("user", "assistant", "system", "one", "two", "three", "four", "five", "six")
MAX_TOKENS = 32

Message = dict[str, Any]


def make_tokenizer(**settings: Any) -> Any:
    """Return a byte-level BPE that knows the words of these tests, with a space before or not."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([form for w in WORDS for form in (w, f" {w}")] * 3, trainer)
    if settings.pop("starts_texts", False):
        bpe.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", bpe.token_to_id("<s>"))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        **{
            "bos_token": "<s>",
            "eos_token": "</s>",
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
            "chat_template": TEMPLATES["chatml"],
            **settings,
        },
    )


def make_model(vocab_size: int) -> Any:
    """Return a random two-layer Llama in evaluation mode, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocab_size,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=128,
                initializer_range=0.2,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
            )
        ).eval()


def write_model(folder: Path) -> Path:
    """Write the model with its tokenizer, as save_pretrained does."""
    tokenizer = make_tokenizer()
    make_model(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_rows(num_rows: int, seed: int) -> Rows:
    """Return prompts of one to three words; the completion is the word after the last one."""
    words = WORDS[3:]
    generator = np.random.default_rng(seed)
    prompts, completions = [], []
    for _ in range(num_rows):
        chosen = generator.integers(0, len(words), generator.integers(1, 4))
        prompts.append(" ".join(words[i] for i in chosen))
        completions.append(" " + words[(int(chosen[-1]) + 1) % len(words)])
    return Rows(columns={"prompt": prompts, "completion": completions}, label=[None] * len(prompts))


def make_splits() -> DataSplits:
    """Return 60, 12 and 6 rows."""
    return DataSplits(
        splits={
            "train": make_rows(60, 1),
            "validation": make_rows(12, 2),
            "test": make_rows(6, 3),
        },
        text_columns=("prompt", "completion"),
        label_column=None,
        label_names=None,
        fingerprint="",
        provenance={},
    )


def make_plan(folder: Path, *, packing: bool = False, task_name: str = "causal-lm") -> WorkerPlan:
    """Return a plan over the tiny Llama, or over another model in ``folder``."""
    source = resolve_model(ModelSettings(name=str(folder)), Path("/"))
    task, splits = TASKS.get(task_name)(), make_splits()
    settings = EncodingSettings(max_tokens=MAX_TOKENS, packing=packing)
    data = encode_splits(task, splits, task.encode_labels(splits), make_tokenizer(), settings)
    shape = model_shape(source, load_config(source, 0, None, task.name), task.name)
    return WorkerPlan(source=source, data=data, id2label=None, shape=shape)


def make_settings(folder: Path, checkpoints: Path, **training: Any) -> WorkerSettings:
    """Return the settings that go with :func:`make_plan`."""
    return WorkerSettings(
        model=ModelSettings(name=str(folder)),
        task="causal-lm",
        metric="loss",
        training=TrainingSettings(
            **{"batch_size": 8, "max_tokens": MAX_TOKENS, "steps": 4, **training}
        ),
        num_outputs=0,
        seed=0,
        checkpoints=checkpoints,
    )
