"""One training step on the meta device: shapes, dtypes and a graph, but no memory, no weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Configuration
from autopeft.workers.injection import inject
from autopeft.workers.memory.accounting import Label, LiveBytes, SavedStorages, StorageLabels
from autopeft.workers.memory.kernels import Device, use_kernels_of
from autopeft.workers.shapes import meta_model
from autopeft.workers.tasks.base import TASKS

#: Positions there must be beyond the tokens of a batch.
SPARE_POSITIONS = 128


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
        input_ids, labels = self._batch
        loss: torch.Tensor = self._task.loss(model(input_ids=input_ids).logits, labels)
        return loss

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
        _ = self._batch  # made before labels are given, in the first forward pass too
        saved, labels = SavedStorages(model), StorageLabels(model)
        with saved, labels:
            loss = self.loss(model)
        sizes = labels.of(saved.sizes())
        del loss
        return sizes

    def frozen_forward_bytes(self) -> int:
        """Return the peak of live tensors in a forward pass that saves nothing, in bytes."""
        model = self.build(Configuration(modules=(), learning_rate=1.0))
        live = LiveBytes().leave_out(model)
        with torch.no_grad(), live:
            self.loss(model)
        return live.peak

    def transient_bytes(self) -> int:
        """Return how far live tensors rise above what is saved, forward and backward, in bytes.

        Measured where gradients flow through the top layer and nothing in it trains.
        """
        assert self.shape.num_layers > 1, "the top layer must not be the lowest"
        model = self.build(Configuration(modules=(), learning_rate=1.0))
        path = self.shape.sites[-1].path_in(0)
        model.get_base_model().get_submodule(path).weight.requires_grad_(True)
        saved, live = SavedStorages(model), LiveBytes().leave_out(model)
        with live:
            with saved:
                loss = self.loss(model)
            num_saved = saved.num_bytes()
            loss.backward()  # type: ignore[no-untyped-call]
        return live.peak - num_saved

    def weight_bytes(self, model: Any) -> int:
        """Return the bytes of everything resident that does not train."""
        frozen = [p for p in model.parameters() if not p.requires_grad]
        num_bytes: int = sum(tensor.nbytes for tensor in (*frozen, *model.buffers()))
        return num_bytes - self._spare_bytes

    @cached_property
    def _base(self) -> Any:
        model = meta_model(self._roomy_config).to(self.dtype)
        model.name_or_path = self.shape.name
        use_kernels_of(model, self.device)
        for module in model.modules():
            if hasattr(module, "warn_if_padding_and_no_attention_mask"):
                # It looks for padding among token ids, which a meta tensor does not have.
                module.warn_if_padding_and_no_attention_mask = _do_nothing
        return model.requires_grad_(False)

    @cached_property
    def _roomy_config(self) -> Any:
        """The config with spare positions.

        A prefix shifts positions beyond those of the text. A batch that reaches too far fails
        in training; here it would take down the account of every shorter prefix with it.
        """
        config = copy.deepcopy(self.config)
        positions = getattr(config, "max_position_embeddings", None)
        if positions is not None:
            config.max_position_embeddings = max(positions, self.tokens + SPARE_POSITIONS)
        return config

    @cached_property
    def _spare_bytes(self) -> int:
        """Bytes of the spare positions, which the real model does not have."""
        sizes: list[int] = []
        for config in (self._roomy_config, self.config):
            model = meta_model(copy.deepcopy(config)).to(self.dtype)
            sizes.append(sum(t.nbytes for t in (*model.parameters(), *model.buffers())))
        return sizes[0] - sizes[1]

    @cached_property
    def _task(self) -> Any:
        return TASKS.get(self.task)()

    @cached_property
    def _batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """``b x tokens`` token ids and ``b`` labels."""
        input_ids = torch.empty((self.batch_size, self.tokens), dtype=torch.long, device="meta")
        regression = self._task.problem_type == "regression"
        dtype = torch.float32 if regression else torch.long
        return input_ids, torch.empty((self.batch_size,), dtype=dtype, device="meta")


def _do_nothing(*_: object) -> None:
    pass
