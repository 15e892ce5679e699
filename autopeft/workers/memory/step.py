"""One training step on the meta device: shapes, dtypes and a graph, but no memory and no weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Configuration
from autopeft.workers.memory.accounting import Label, SavedStorages, StorageLabels
from autopeft.workers.injection import inject
from autopeft.workers.memory.attention import Device, use_attention_of
from autopeft.workers.shapes import meta_model
from autopeft.workers.tasks.base import TASKS


@dataclass(frozen=True, kw_only=True)
class TrainingStep:
    """Build models on the meta device and run the forward pass of a training step.

    Attributes:
        config: transformers config with its task head described.
        shape: Shape of the same model.
        batch_size: Examples in a batch.
        tokens: Tokens of each example, padding included.
        task: Name of the task, which decides labels and loss.
        dtype: Of the frozen weights; PEFT keeps adapters in float32 where it is a half type.
        device: Whose attention kernels are accounted for.
    """

    config: Any
    shape: ModelShape
    batch_size: int
    tokens: int
    task: str
    dtype: torch.dtype
    device: Device

    def with_layers(self, num_layers: int) -> TrainingStep:
        """Return the same step for the model cut down to its first transformer layers."""
        config = copy.deepcopy(self.config)
        config.num_hidden_layers = num_layers
        if getattr(config, "layer_types", None) is not None:
            config.layer_types = list(config.layer_types)[:num_layers]
        return replace(self, config=config, shape=replace(self.shape, num_layers=num_layers))

    def build(self, configuration: Configuration) -> Any:
        """Return the model with its modules, in training mode, the trainable set marked."""
        return inject(self._base, configuration, self.shape).train()

    def loss(self, model: Any) -> torch.Tensor:
        """Run the forward pass, loss included, without an attention mask.

        With one, transformers asks whether it is all ones, which a meta tensor cannot answer.
        """
        return self._task.loss(model(input_ids=self._input_ids).logits, self._labels)

    def saved_bytes(self, model: Any) -> int:
        """Return what autograd keeps at the end of the forward pass, in bytes."""
        saved = SavedStorages(model)
        with saved:
            loss = self.loss(model)
        num_bytes = saved.num_bytes()
        del loss
        return num_bytes

    def saved_by_label(self, model: Any) -> dict[Label, int]:
        """Return the same, storage by storage."""
        saved, labels = SavedStorages(model), StorageLabels(model)
        with saved, labels:
            loss = self.loss(model)
        sizes = labels.of(saved.sizes())
        del loss
        return sizes

    @cached_property
    def _base(self) -> Any:
        model = meta_model(copy.deepcopy(self.config)).to(self.dtype)
        use_attention_of(model, self.device)
        return model.requires_grad_(False)

    @cached_property
    def _task(self) -> Any:
        return TASKS.get(self.task)()

    @cached_property
    def _input_ids(self) -> torch.Tensor:
        return torch.empty((self.batch_size, self.tokens), dtype=torch.long, device="meta")

    @cached_property
    def _labels(self) -> torch.Tensor:
        regression = self._task.problem_type == "regression"
        dtype = torch.float32 if regression else torch.long
        return torch.empty((self.batch_size,), dtype=dtype, device="meta")
