"""A model of a few thousand weights on disk, rows for it, and trials on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
)

from autopeft.records import Costs, ModelShape, Segment, Trial
from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.workers.data.tokenization import encode_texts
from autopeft.workers.dataset import EncodedData, Rows
from autopeft.workers.models import load_config, load_tokenizer, resolve_model
from autopeft.workers.settings import ModelSettings, TrainingSettings, WorkerSettings
from autopeft.workers.shapes import model_shape
from autopeft.workers.worker import WorkerPlan

WORDS = ("good", "bad", "fine", "poor", "film", "plot", "actor", "song", "the", "a")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
CLASSES = ("bad", "good", "none")
LAYERS = (0, 1)
SITES = ("q", "v", "ffn_out")
STEPS = 6

#: Two texts, the second padded.
INPUT_IDS = torch.tensor([[2, 4, 5, 6, 3], [2, 8, 9, 3, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]])

LORA = Module.of(
    "lora", LAYERS, rank=2, alpha_ratio=2.0, sites=("q", "ffn_in"), dora=False, rslora=False
)
DORA = Module.of("lora", LAYERS, rank=2, alpha_ratio=1.0, sites=SITES, dora=True, rslora=True)
IA3 = Module.of("ia3", LAYERS, sites=("k", "v", "ffn_out"))
BEFT = Module.of("beft", (1,), sites=SITES)
PREFIX = Module.of("prefix", LAYERS, prefix_length=3)

#: What each test of a method runs on: every method alone, the head alone, and mixtures.
CONFIGURATIONS = {
    "lora": (LORA,),
    "dora": (DORA,),
    "ia3": (IA3,),
    "beft": (BEFT,),
    "prefix": (PREFIX,),
    "head": (),
    "mixture": (BEFT, IA3, LORA),
    "mixture-with-prefix": (DORA, IA3, PREFIX),
}


def configuration(name: str, learning_rate: float = 0.02) -> Configuration:
    """Return one of the configurations above."""
    return Configuration(modules=CONFIGURATIONS[name], learning_rate=learning_rate)


def write_model(folder: Path) -> Path:
    """Write a random two-layer BERT with pooler and tokenizer, as save_pretrained does."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(bert_config()).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def bert_config() -> BertConfig:
    """Return a BERT small enough to train in milliseconds, dropout included."""
    return BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=128,
        initializer_range=0.2,
    )


def write_tokenizer(folder: Path) -> None:
    """Write a word-level tokenizer that frames texts as BERT's does."""
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)


def make_rows(num_rows: int, seed: int) -> Rows:
    """Return texts of 1 to 9 words; the class is told by the first word."""
    generator = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(num_rows):
        words = [str(word) for word in generator.choice(WORDS, generator.integers(1, 10))]
        texts.append(" ".join(words))
        labels.append({"bad": 0, "good": 1}.get(words[0], 2))
    return Rows.of_texts(texts, labels)


def make_plan(folder: Path, *, id2label: tuple[str, ...] | None = CLASSES) -> WorkerPlan:
    """Return a plan over the tiny model; regression on the class numbers without names."""
    source = resolve_model(ModelSettings(name=str(folder)), Path("/"))
    tokenizer = load_tokenizer(source)
    splits = []
    for rows in (make_rows(40, 1), make_rows(23, 2)):
        dtype = np.int64 if id2label else np.float32
        splits.append(encode_texts(rows, np.array(rows.label, dtype), tokenizer, 12))
    data = EncodedData(train=splits[0], validation=splits[1], pad_token_id=0)
    task = "classification" if id2label else "regression"
    config = load_config(source, len(id2label or "1"), id2label, task)
    shape = model_shape(source, config)
    return WorkerPlan(source=source, data=data, id2label=id2label, shape=shape)


def make_settings(folder: Path, checkpoints: Path, **training: Any) -> WorkerSettings:
    """Return the settings that go with :func:`make_plan`, for classification."""
    return WorkerSettings(
        model=ModelSettings(name=str(folder)),
        task="classification",
        metric="accuracy",
        training=TrainingSettings(
            **{"batch_size": 8, "max_tokens": 12, "steps": STEPS, **training}
        ),
        num_outputs=len(CLASSES),
        seed=0,
        checkpoints=checkpoints,
    )


def make_trial(number: int, chosen: Configuration, seed: int = 3) -> Trial:
    """Return a trial; its costs are of no interest here."""
    costs = Costs(num_trainable_parameters=1, num_adapter_parameters=1, train_memory_bytes=1)
    return Trial(number=number, configuration=chosen, seed=seed, origin="test", costs=costs)


def first_segment(number: int = 0, name: str = "lora", to_step: int = STEPS) -> Segment:
    """Return the segment that starts a trial."""
    return Segment(trial=make_trial(number, configuration(name)), from_step=0, to_step=to_step)


def num_parameters(shape: ModelShape, chosen: Configuration) -> int:
    """Return what a search space counts, head included."""
    from autopeft.search_spaces.method import get_method

    return shape.num_head_parameters + sum(
        get_method(module.method).num_parameters(shape, module) for module in chosen.modules
    )


def outputs(model: Any) -> torch.Tensor:
    """Return the logits of the two texts, without dropout."""
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=INPUT_IDS, attention_mask=MASK).logits
    assert isinstance(logits, torch.Tensor)
    return logits


def regression_model(folder: Path) -> Any:
    """Return the tiny model with one output, as plain transformers loads it."""
    return BertForSequenceClassification.from_pretrained(folder, num_labels=1)
