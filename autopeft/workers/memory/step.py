"""One training step on the meta device: shapes, dtypes and a graph, but no memory, no weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypedDict

import torch

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Configuration
from autopeft.workers.injection import inject
from autopeft.workers.memory.accounting import Label, LiveBytes, SavedStorages, StorageLabels
from autopeft.workers.memory.answers import QuickAnswers
from autopeft.workers.memory.depth import cut_config, cut_shape, layer_of, layer_prefixes
from autopeft.workers.memory.inputs import Input, default_inputs, meta_batch
from autopeft.workers.memory.kernels import Device, use_kernels_of
from autopeft.workers.quantization import quantized_weights, stored_bytes
from autopeft.workers.settings import ModelSettings, Precision
from autopeft.workers.shapes import meta_model
from autopeft.workers.tasks.base import TASKS

#: Positions there must be beyond the tokens of a batch.
SPARE_POSITIONS = 128


class StepDtypes(TypedDict):
    """Types of a training step: of what the frozen part computes, and of its stored weights."""

    dtype: torch.dtype
    weight_dtype: torch.dtype | None


def step_dtypes(config: Any, settings: ModelSettings, precision: Precision) -> StepDtypes:
    """Return the types a job trains with.

    Args:
        config: transformers config of the model; its ``dtype`` is the checkpoint's own.
        settings: What the job says about its model.
        precision: What it says about training.
    """
    stored = getattr(config, "dtype", None) if settings.dtype == "auto" else settings.dtype
    if isinstance(stored, str):
        stored = getattr(torch, stored)
    weights = stored if isinstance(stored, torch.dtype) else torch.float32
    if precision == "auto":
        is_small = settings.quantization is not None or weights.itemsize < 4
        precision = "bfloat16" if is_small else "float32"
    if precision == "bfloat16":
        return {"dtype": torch.bfloat16, "weight_dtype": weights}
    return {"dtype": weights, "weight_dtype": None}


@dataclass(frozen=True, kw_only=True)
class TrainingStep:
    """Build models on the meta device and run the forward pass of a training step.

    Attributes:
        config: transformers config with its task head described.
        shape: Shape of the same model.
        batch_size: Examples that go through the model together.
        tokens: Tokens of each example, padding included.
        task: Name of the task, which decides labels and loss.
        dtype: The one that the frozen part computes in; PEFT keeps adapters in float32 where it
            is a half type.
        device: Whose attention kernels are accounted for.
        inputs: What a batch looks like; from ``batch_size`` and ``tokens`` where None.
        weight_dtype: Of the frozen weights, where they are stored in another than ``dtype``.
    """

    config: Any
    shape: ModelShape
    batch_size: int
    tokens: int
    task: str
    dtype: torch.dtype
    device: Device
    inputs: Mapping[str, Input] | None = None
    weight_dtype: torch.dtype | None = None

    def shallow(self) -> TrainingStep:
        """Return the same step for the model cut down to its first layers."""
        cut = cut_shape(self.shape)
        if cut is self.shape:
            return self
        return replace(self, config=cut_config(self.config, self.shape, cut), shape=cut)

    def build(self, configuration: Configuration) -> Any:
        """Return the model with its modules, in training mode, the trainable set marked."""
        return inject(self._base, configuration, self.shape).train()

    def loss(self, model: Any) -> torch.Tensor:
        """Run the forward pass, loss included, without an attention mask."""
        outputs = self._task.forward(model, self._batch)
        loss: torch.Tensor = self._task.loss(outputs, self._batch)
        return loss

    def saved_bytes(self, model: Any) -> int:
        """Return what autograd keeps at the end of the forward pass, in bytes."""
        saved = SavedStorages(model)
        with saved, QuickAnswers():
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

        Measured where gradients flow through every layer but the lowest and nothing in them
        trains.
        """
        model = self.build(Configuration(modules=(), learning_rate=1.0))
        self.first_weight(model, 0).requires_grad_(True)
        saved, live = SavedStorages(model), LiveBytes().leave_out(model)
        with live:
            with saved:
                loss = self.loss(model)
            num_saved = saved.num_bytes()
            loss.backward()  # type: ignore[no-untyped-call]
        return live.peak - num_saved

    def first_weight(self, model: Any, layer: int) -> torch.nn.Parameter:
        """Return the frozen weight nearest to the input of a layer."""
        prefixes = layer_prefixes(self.shape)
        first: torch.nn.Parameter = next(
            parameter
            for name, parameter in model.named_parameters()
            if layer_of(name, prefixes) == layer
            and not parameter.requires_grad
            and parameter.ndim >= 2
        )
        return first

    def frozen_bytes(self, model: Any) -> Iterator[tuple[str, int]]:
        """Yield name and bytes of everything resident that does not train."""
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                continue
            path = name.removeprefix("base_model.model.").replace(".base_layer", "")
            if path in self._quantized:
                yield name, self._quantized[path]
            elif self.weight_dtype is not None and parameter.is_floating_point():
                yield name, parameter.numel() * self.weight_dtype.itemsize
            else:
                yield name, parameter.nbytes
        for name, buffer in model.named_buffers():
            yield name, buffer.nbytes

    def weight_bytes(self, model: Any) -> int:
        """Return the bytes of everything resident that does not train."""
        total = sum(size for _, size in self.frozen_bytes(model))
        return total - self._spare_bytes

    @cached_property
    def _quantized(self) -> Mapping[str, int]:
        """Bytes of each weight that a quantised model stores in few bits, by name."""
        bits = self.shape.quantization
        if bits is None:
            return {}
        return {
            f"{path}.weight": stored_bytes(bits, out_features, in_features)
            for path, out_features, in_features in quantized_weights(
                self._base, self.shape.head_paths
            )
        }

    @cached_property
    def layer_output_bytes(self) -> int:
        """Bytes of what one layer hands to the next: what checkpointing keeps of a layer."""
        sizes: list[int] = []
        prefixes = {f"{prefix}0" for prefix, _ in layer_prefixes(self.shape)}

        def note(_: Any, __: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, torch.Tensor):
                sizes.append(first.nbytes)

        handles = [
            module.register_forward_hook(note)
            for path, module in self._base.named_modules()
            if path in prefixes
        ]
        try:
            with torch.no_grad(), QuickAnswers():
                self.loss(self._base)
        finally:
            for handle in handles:
                handle.remove()
        return max(sizes, default=0)

    @cached_property
    def _base(self) -> Any:
        model = meta_model(self._roomy_config, self.task).to(self.dtype)
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
        if isinstance(positions, int):
            config.max_position_embeddings = max(positions, self.tokens + SPARE_POSITIONS)
        return config

    @cached_property
    def _spare_bytes(self) -> int:
        """Bytes of the spare positions, which the real model does not have."""
        sizes: list[int] = []
        for config in (self._roomy_config, self.config):
            dtype = self.weight_dtype or self.dtype
            model = meta_model(copy.deepcopy(config), self.task).to(dtype)
            sizes.append(sum(t.nbytes for t in (*model.parameters(), *model.buffers())))
        return sizes[0] - sizes[1]

    @cached_property
    def _task(self) -> Any:
        return TASKS.get(self.task)()

    @cached_property
    def _batch(self) -> dict[str, torch.Tensor]:
        inputs = self.inputs or default_inputs(
            self.config, self._task, self.batch_size, self.tokens
        )
        return meta_batch(inputs)


def _do_nothing(*_: object) -> None:
    pass
