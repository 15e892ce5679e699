"""One training step on the meta device: shapes, dtypes and a graph, but no memory, no weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypedDict

import torch

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Configuration
from autopeft.workers.adapter_tensors import trainable_parameters
from autopeft.workers.gradient_checkpointing import checkpoint_layers
from autopeft.workers.injection import inject
from autopeft.workers.memory.accounting import Label, LiveBytes, SavedStorages, StorageLabels
from autopeft.workers.memory.answers import QuickAnswers
from autopeft.workers.memory.autocast import EmulatedAutocast
from autopeft.workers.memory.depth import cut_config, cut_shape, layer_of, layer_prefixes
from autopeft.workers.memory.inputs import Input, default_inputs, meta_batch
from autopeft.workers.memory.kernels import Device, use_kernels_of
from autopeft.workers.optimizers import freeze_lora_a
from autopeft.workers.quantization import quantized_weights, stored_bytes
from autopeft.workers.saved_activations import kept_in_4_bits
from autopeft.workers.settings import Attention, ModelSettings, Precision, SavedActivations
from autopeft.workers.shapes import meta_model
from autopeft.workers.tasks.base import TASKS

#: Positions there must be beyond the tokens of a batch.
SPARE_POSITIONS = 128

_HOOKS_PASSED_BY = "One of the base layers adapted with .* has backward/forward .* hooks set"
#: Stands for a layer before the first one: where a step computes embeddings.
BEFORE = -1

#: Whose loss counts.
LossOf = Literal["task", "model"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBytes:
    """What is in use during a step besides weights, adapter and optimiser state, in bytes.

    Attributes:
        forward: The most there is in the forward pass, loss included.
        held: What is left of it when the backward pass begins.
        backward: The most there is in the backward pass.
        gradients: All gradients, as they are there at the end.
        gradients_in_forward: Those there are already during the forward pass.
        gradients_in_backward: Those there are at the worst moment of the backward pass.
        sections: The most there is while a layer computes, by the layer and whether forth or
            back, gradients included that are there already; ``BEFORE`` stands for what comes
            before the first layer, ``None`` for all else outside the layers.
        kept: Bytes of ``held`` by the layer that made them, with the same two names.
        kept_of_weights: Those of ``kept`` that do not grow with the text.
    """

    forward: int
    held: int
    backward: int
    gradients: int
    gradients_in_forward: int
    gradients_in_backward: int
    sections: Mapping[tuple[int | None, bool], int]
    kept: Mapping[int | None, int]
    kept_of_weights: Mapping[int | None, int]


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
            is a half type. Under autocast, which ``weight_dtype`` asks for, matrix products
            compute in it.
        device: Whose attention kernels are accounted for.
        inputs: What a batch looks like; from ``batch_size`` and ``tokens`` where None.
        weight_dtype: Of the frozen weights, where they are stored in another than ``dtype``.
        accumulation: Parts that a batch is computed in; ``batch_size`` is that of one part.
        loss_of: Whose loss counts: the task's, as in training here, or the model's own, as in
            scripts that give transformers the labels.
        freezes_lora_a: Whether the optimiser leaves LoRA's first matrices as they start.
        attention: ``flash_attention_2`` in place of fused attention; else as the config says.
        saved_activations: How nonlinear parts keep what they save for the backward pass.
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
    accumulation: int = 1
    loss_of: LossOf = "task"
    freezes_lora_a: bool = False
    attention: Attention = "auto"
    saved_activations: SavedActivations = "full"

    def shallow(self) -> TrainingStep:
        """Return the same step for the model cut down to its first layers."""
        cut = cut_shape(self.shape)
        if cut is self.shape:
            return self
        return replace(self, config=cut_config(self.config, self.shape, cut), shape=cut)

    def build(self, configuration: Configuration) -> Any:
        """Return the model with its modules, in training mode, the trainable set marked."""
        model = inject(self._base, configuration, self.shape).train()
        if self.freezes_lora_a:
            freeze_lora_a(model)
        return model

    def base(self) -> Any:
        """Return a copy of the frozen base model, in training mode."""
        return copy.deepcopy(self._base).train()

    def loss(self, model: Any) -> torch.Tensor:
        """Run the forward pass, loss included, without an attention mask."""
        with self._packing(model), self._emulation(), self._autocast():
            return self._loss_and_outputs(model)[0]

    def _packing(self, model: Any) -> AbstractContextManager[None]:
        """Return what makes a model save in few bits, where the job trains so."""
        return kept_in_4_bits(model) if self.saved_activations == "4bit" else nullcontext()

    def _emulation(self) -> AbstractContextManager[Any]:
        """Return what lets autocast act on the meta device, where the step runs under it."""
        return nullcontext() if self.weight_dtype is None else EmulatedAutocast(self.device)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.weight_dtype is None:
            return nullcontext()
        return torch.autocast("cpu", self.dtype)

    def _loss_and_outputs(self, model: Any) -> tuple[torch.Tensor, Any]:
        """Return the loss, and the outputs that live as long as the loss where a script is so."""
        if self.loss_of == "model":
            outputs = model(**self._plain_batch)
            return outputs.loss, outputs
        loss: torch.Tensor = self._task.loss(self._task.forward(model, self._batch), self._batch)
        return loss, None

    def run(self, model: Any) -> StepBytes:
        """Run a whole step, layers computed twice where the job trains so.

        Of a batch that is computed in parts, the second part is what counts: the gradients of
        the first are there already.
        """
        if self.shape.uses_gradient_checkpointing:
            checkpoint_layers(model)
        _ = self._batch
        live = LiveBytes().leave_out(model)
        trained = trainable_parameters(model).values()
        with self._packing(model), self._sections(model, live), live, self._emulation():
            for _ in range(min(2, self.accumulation)):
                before = sum(p.grad.nbytes for p in trained if p.grad is not None)
                live.goes_forward = True
                live.enter_section((BEFORE, True))
                live.restart()
                with self._autocast():
                    loss, outputs = self._loss_and_outputs(model)
                forward, held = live.peak, live.now
                kept = live.by_section()
                of_weights = live.by_section(lambda shape: not self._is_of_text(shape))
                live.goes_forward = False
                live.enter_section((None, False))
                live.restart()
                loss.backward()  # type: ignore[no-untyped-call]
                del loss, outputs
        live.enter_section((None, False))
        gradients = [p.grad for p in trained if p.grad is not None]
        bytes_at_peak = sum(grad.nbytes for grad in gradients if live.was_there_at_peak(grad))
        for parameter in trained:
            parameter.grad = None
        return StepBytes(
            forward=forward,
            held=held,
            backward=live.peak,
            gradients=sum(grad.nbytes for grad in gradients),
            gradients_in_forward=before,
            gradients_in_backward=bytes_at_peak,
            sections=live.sections,
            kept={layer: size for (layer, forth), size in kept.items() if forth},
            kept_of_weights={layer: size for (layer, forth), size in of_weights.items() if forth},
        )

    def _is_of_text(self, shape: torch.Size) -> bool:
        """Tell whether a tensor has a row for each token, judged by how its shape begins."""
        if not shape:
            return False
        first = int(shape[0])
        of_examples = first == self.batch_size and len(shape) > 2
        return of_examples or first == self.batch_size * self.tokens

    @cached_property
    def weight_labels(self) -> set[Label]:
        """Labels of what :meth:`saved_by_label` found that does not grow with the text.

        They are added to it, until whoever reads it clears it.
        """
        return set()

    @contextmanager
    def _sections(self, model: Any, live: LiveBytes) -> Iterator[None]:
        """Tell ``live`` which layer computes."""
        prefixes = layer_prefixes(self.shape)
        handles = []
        for name, module in model.named_modules():
            layer = layer_of(name, prefixes)
            if layer is None or layer_of(name.rpartition(".")[0], prefixes) is not None:
                continue

            def enter(*_: object, layer: int = layer) -> None:
                if live.goes_forward:
                    live.enter_section((layer, True))

            def leave(_: Any, __: Any, output: Any, layer: int = layer) -> None:
                if not live.goes_forward:
                    return  # computed a second time
                live.enter_section((None, True))
                first = output[0] if isinstance(output, tuple) else output
                if isinstance(first, torch.Tensor) and first.requires_grad:
                    first.register_hook(lambda _: live.enter_section((layer, False)))  # type: ignore[no-untyped-call]

            handles += [
                module.register_forward_pre_hook(enter),
                module.register_forward_hook(leave),
            ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def saved_bytes(self, model: Any) -> int:
        """Return what autograd keeps at the end of the forward pass, in bytes."""
        saved = SavedStorages(model)
        with saved, QuickAnswers():
            loss = self.loss(model)
        num_bytes = saved.num_bytes()
        del loss
        return num_bytes

    def saved_by_label(
        self,
        model: Any,
        saved: SavedStorages | None = None,
        labels: StorageLabels | None = None,
    ) -> dict[Label, int]:
        """Return the same, storage by storage.

        Args:
            model: Any.
            saved: Records what is saved; for those who look on.
            labels: Gives the labels.
        """
        _ = self._batch  # made before labels are given, in the first forward pass too
        saved, labels = saved or SavedStorages(model), labels or StorageLabels(model)
        with saved, labels, warnings.catch_warnings():
            # ShiRA and Super-Tuning pass by the hooks that tell which layer runs; the layer
            # around the one they pass by is told all the same.
            warnings.filterwarnings("ignore", message=_HOOKS_PASSED_BY, category=UserWarning)
            loss = self.loss(model)
        found = saved.sizes()
        sizes = labels.of(found)
        self.weight_labels.update(
            labels.of({a: 0 for a in found if not self._is_of_text(labels.shape_of(a))})
        )
        del loss
        return sizes

    def frozen_forward_bytes(self) -> int:
        """Return the peak of live tensors in a forward pass that saves nothing, in bytes."""
        model = self.build(Configuration(modules=(), learning_rate=1.0))
        live = LiveBytes().leave_out(model)
        with torch.no_grad(), live:
            self.loss(model)
        return live.peak

    def frozen_in(self, model: Any, layer: int) -> Iterator[torch.nn.Parameter]:
        """Yield the frozen parameters of a layer, matrices first."""
        prefixes = layer_prefixes(self.shape)
        found = [
            parameter
            for name, parameter in model.named_parameters()
            if layer_of(name, prefixes) == layer
            and not parameter.requires_grad
            and parameter.is_floating_point()
        ]
        yield from sorted(found, key=lambda parameter: parameter.ndim < 2)

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
        seen: set[int] = set()
        for name, buffer in model.named_buffers():
            storage = buffer.untyped_storage()  # a buffer may be a part of what it keeps
            if storage._cdata not in seen:
                seen.add(storage._cdata)
                yield name, storage.nbytes()

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
        return self.output_bytes(self._base)

    def output_bytes(self, model: Any) -> int:
        """Return the bytes of what the first layer of a model hands to the next."""
        sizes: list[int] = []
        prefixes = {f"{prefix}0" for prefix, _ in layer_prefixes(self.shape)}

        def note(_: Any, __: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, torch.Tensor):
                sizes.append(first.nbytes)

        handles = [
            module.register_forward_hook(note)
            for path, module in model.named_modules()
            if path.removeprefix("base_model.model.") in prefixes
        ]
        try:
            with torch.no_grad(), QuickAnswers():
                self.loss(model)
        finally:
            for handle in handles:
                handle.remove()
        return max(sizes, default=0)

    @cached_property
    def _base(self) -> Any:
        is_cast = self.weight_dtype is not None and self.shape.quantization is None
        stored = self.weight_dtype if is_cast else self.dtype
        model = meta_model(self._roomy_config, self.task).to(stored)
        model.name_or_path = self.shape.name
        use_kernels_of(model, self.device, self.attention)
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

    @property
    def _plain_batch(self) -> dict[str, torch.Tensor]:
        """The batch as a script gives it to the model itself."""
        places = self._task.index_tensors(self._batch)
        return {name: tensor for name, tensor in self._batch.items() if name not in places}


def _do_nothing(*_: object) -> None:
    pass
