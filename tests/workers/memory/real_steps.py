"""A real training step of a small model, with every tensor counted, beside its prediction."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.search_spaces.method import get_method
from autopeft.workers.gradient_checkpointing import checkpoint_layers
from autopeft.workers.hooks import hooks_of
from autopeft.workers.injection import inject
from autopeft.workers.memory import MemoryEstimate, MemoryModel, step_dtypes
from autopeft.workers.memory.inputs import inputs_of
from autopeft.workers.memory.measuring import accounted_bytes
from autopeft.workers.models import auto_class
from autopeft.workers.optimizers import make_optimizer
from autopeft.workers.saved_activations import keep_in_4_bits
from autopeft.workers.settings import ModelSettings, TrainingSettings
from autopeft.workers.shapes import shape_from_config
from autopeft.workers.tasks.base import TASKS
from autopeft.workers.training import to_device

BATCH_SIZE = 8
TOKENS = 40
VOCABULARY = 400
Batch = Mapping[str, NDArray[Any]]


def bert(**changes: Any) -> Any:
    """Return the config of an encoder with layers wide enough for states in 8 bits."""
    from transformers import BertConfig

    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 256,
        "max_position_embeddings": 64,
        "num_labels": 3,
        "pad_token_id": 0,
    }
    return BertConfig(**{**sizes, **changes})


def llama(**changes: Any) -> Any:
    """Return the config of a decoder whose logits weigh more than its layers."""
    from transformers import LlamaConfig

    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
    }
    return LlamaConfig(**{**sizes, **changes})


def t5() -> Any:
    """Return the config of an encoder-decoder."""
    from transformers import T5Config

    return T5Config(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        pad_token_id=0,
        decoder_start_token_id=0,
    )


def padded_batch(task: str, *, num_trained: int = TOKENS) -> dict[str, NDArray[Any]]:
    """Return ``b x t`` tokens of several lengths, trained on in their last ones."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(3, VOCABULARY, (BATCH_SIZE, TOKENS)).astype(np.int64)
    lengths = TOKENS - 3 * np.arange(BATCH_SIZE)
    places = np.arange(TOKENS)
    mask = (places < lengths[:, None]).astype(np.int64)
    tokens *= mask
    batch = {"input_ids": tokens, "attention_mask": mask}
    if task == "classification":
        return {**batch, "labels": generator.integers(0, 3, BATCH_SIZE).astype(np.int64)}
    is_trained = (mask == 1) & (places >= lengths[:, None] - num_trained)
    return {**batch, "labels": np.where(is_trained, tokens, -100)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A configuration, and how it is trained.

    Attributes:
        config: Of the model, attention included.
        task: Name of the task.
        method: Put on all layers, with default settings save for ``settings``.
        settings: Other settings of it.
        batch: What the step takes.
        training: How the job trains.
    """

    config: Any
    task: str
    method: str
    batch: Batch
    training: TrainingSettings = field(default_factory=TrainingSettings)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def _configuration(self, shape: Any) -> Configuration:
        found = get_method(self.method)
        settings = {d.name: d.default for d in found.dimensions(shape)} | dict(self.settings)
        layers = tuple(range(shape.num_layers))
        return Configuration(
            modules=(Module.of(self.method, layers, **settings),), learning_rate=1e-3
        )

    def _shape(self) -> Any:
        shape = shape_from_config(copy.deepcopy(self.config), "small", task=self.task)
        checkpointed = self.training.gradient_checkpointing
        return replace(shape, uses_gradient_checkpointing=checkpointed)

    def measured(self) -> int:
        """Take the step on the CPU and return its accounted peak, in bytes."""
        shape = self._shape()
        chosen = self._configuration(shape)
        torch.manual_seed(0)
        base = auto_class(self.task).from_config(copy.deepcopy(self.config)).requires_grad_(False)
        base.name_or_path = shape.name
        model = inject(base, chosen, shape)
        if self.training.gradient_checkpointing:
            checkpoint_layers(model)
        if self.training.saved_activations == "4bit":
            keep_in_4_bits(model)
        hooks = hooks_of(chosen)
        optimizer = make_optimizer(model, 1e-3, self.training, hooks)
        task = TASKS.get(self.task)()
        batch = to_device(self.batch, torch.device("cpu"))
        return accounted_bytes(model, optimizer, [batch], task, self.training, hooks)

    def memory(self, **changes: Any) -> MemoryModel:
        """Return the model that predicts it, with other arguments where they are given."""
        return MemoryModel(
            copy.deepcopy(self.config),
            self._shape(),
            batch_size=BATCH_SIZE,
            tokens=TOKENS,
            task=self.task,
            inputs=inputs_of(self.batch, TASKS.get(self.task)()),
            optimizer=self.training.optimizer,
            saved_activations=self.training.saved_activations,
            **step_dtypes(self.config, ModelSettings(name="small"), self.training.precision),
            **changes,
        )

    def probed(self, **changes: Any) -> MemoryEstimate:
        """Return what the step on shapes alone finds."""
        return self.memory(**changes).probe(self._configuration(self._shape()))

    def estimated(self) -> MemoryEstimate:
        """Return what shallow models tell."""
        return self.memory().estimate(self._configuration(self._shape()))
