"""Peak memory of one training step, without the device it will run on and without weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.search_spaces.method import get_method
from autopeft.workers.adapter_tensors import trainable_parameters
from autopeft.workers.memory.depth import layer_of, layer_prefixes
from autopeft.workers.memory.inputs import Input
from autopeft.workers.memory.kernels import Device
from autopeft.workers.memory.predicting import OnMethod, Predictor, Sum
from autopeft.workers.memory.step import TrainingStep

_FLOAT32 = 4
#: One float32 state for the mean and one for the square of each gradient.
_ADAMW_STATES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes of one training step.

    Attributes:
        total_bytes: The peak; see :class:`MemoryModel` for what is in it.
        components: In bytes: ``weights`` (frozen parameters and buffers), ``adapter`` (all that
            trains, task head included), ``gradients``, ``optimizer_state``, ``activations``
            (saved from forward to backward), ``transients`` (what the worst moment adds to
            these), and ``total``, their sum.
        is_approximate: Whether a part could not be accounted for on the meta device and was
            estimated from sizes alone.
    """

    total_bytes: int
    components: Mapping[str, int]
    is_approximate: bool = False


class MemoryModel:
    """Predict the peak memory of one training step with AdamW, from the second step on.

    Always there: frozen weights and buffers by dtype, what trains, its gradients (they live on
    through the next forward pass) and AdamW's two float32 states for each trained parameter.
    On top comes the worst of three moments:

    * the top layer, end of forward and start of backward: all distinct storages that autograd
      saved, loss included, and the transient tensors of a layer that gradients flow through.
      What is saved is exact; the transients are measured once a model and taken alike for all
      configurations;
    * the forward pass through frozen layers, which saves nothing: its transient tensors;
    * the optimiser step: one float32 copy of what trains, which torch's multi-tensor AdamW makes.

    Under gradient checkpointing what a layer saves is kept for one layer at a time, the largest,
    and the output of a layer for every layer that gradients pass.

    Not counted: what an allocator rounds up or keeps, kernel workspaces, the device's own
    context, the batch itself. Batches are taken as full and padded to ``tokens``; dropout is on.
    Deterministic; models of the meta device are built on first use and hold no memory. A method
    or a model that cannot run on the meta device is estimated from its sizes, and never raises.
    """

    def __init__(
        self,
        config: Any,
        shape: ModelShape,
        *,
        batch_size: int,
        tokens: int,
        task: str,
        dtype: torch.dtype = torch.float32,
        device: Device = "cpu",
        weight_dtype: torch.dtype | None = None,
        inputs: Mapping[str, Input] | None = None,
    ) -> None:
        """Describe the step; nothing is built yet.

        Args:
            config: transformers config with the task head described (``num_labels``).
            shape: Shape of the same model; says whether the weights are quantised and whether
                the job trains with gradient checkpointing.
            batch_size: Examples that go through the model together.
            tokens: Tokens of each example, padding included.
            task: Name of the task.
            dtype: The one that the frozen part computes in.
            device: Whose attention kernels are accounted for.
            weight_dtype: Of the frozen weights where autocast computes in another; the same
                where None.
            inputs: What a batch looks like; from ``batch_size`` and ``tokens`` where None.
        """
        self._shape = shape
        self._dtype = dtype
        self._is_autocast = weight_dtype not in (None, dtype) and shape.quantization is None
        self._step = TrainingStep(
            config=config,
            shape=shape,
            batch_size=batch_size,
            tokens=tokens,
            task=task,
            dtype=dtype,
            device=device,
            weight_dtype=weight_dtype,
            inputs=inputs,
        )
        self._predictor = Predictor(self._step)

    def probe(self, configuration: Configuration) -> MemoryEstimate:
        """Build the configuration on the meta device and account for one step.

        Where it cannot be built or run there, it is predicted.
        """
        try:
            model = self._step.build(configuration)
            weights = self._step.weight_bytes(model)
            saved = self._saved_by_layer(model)
        except Exception:  # whatever a method does that has no answer on the meta device
            return self._predicted(configuration.modules)
        trained = trainable_parameters(model)
        return self._estimate(
            weights=weights,
            adapter=sum(parameter.nbytes for parameter in trained.values()),
            num_trained=sum(parameter.numel() for parameter in trained.values()),
            activations=self._held(saved),
        )

    def predict(
        self, configurations: Sequence[Configuration], on_method: OnMethod | None = None
    ) -> NDArray[np.int64]:
        """Return about what :meth:`probe` would find, for many configurations at once.

        The first call that meets a method, or a variant of one such as DoRA, takes up to about
        a second to account for it, more for models with wide layers; after that a configuration
        takes about 0.1 ms. What several methods in one configuration save is added up, what
        they share once.

        Args:
            configurations: ``n`` of them.
            on_method: Told before each method that has variants to account for: its number
                from 1, how many there are, its name.

        Returns:
            ``n`` peaks in bytes.
        """
        self._predictor.meet((m for c in configurations for m in c.modules), on_method)
        known: dict[tuple[Module, ...], int] = {}
        for configuration in configurations:
            if configuration.modules not in known:
                known[configuration.modules] = self._predicted(configuration.modules).total_bytes
        return np.array([known[c.modules] for c in configurations], dtype=np.int64)

    def _predicted(self, modules: tuple[Module, ...]) -> MemoryEstimate:
        added = self._predictor.add_up(modules)
        num_adapter = sum(
            get_method(module.method).num_parameters(self._shape, module) for module in modules
        )
        head = self._shape.num_head_parameters
        return self._estimate(
            weights=self._bare_weights + round(added.resident),
            adapter=head * self._dtype.itemsize + num_adapter * self._adapter_itemsize,
            num_trained=head + num_adapter,
            activations=self._held(added),
            is_approximate=added.is_approximate,
        )

    def _held(self, saved: Sum) -> int:
        """Return what is held when the backward pass begins, in bytes."""
        flowing = [layer for layer in saved.layers if layer > 0]
        if not self._shape.uses_gradient_checkpointing:
            held = saved.outside + sum(flowing)
        else:
            boundary = self._predictor.layer_output_bytes
            held = saved.outside + boundary * len(flowing) + max(flowing, default=0)
        if self._is_autocast:
            # Every matrix product through which gradients pass keeps its copy of the weight.
            part = len(flowing) / max(1, self._shape.num_layers)
            held += part * self._shape.num_base_parameters * self._dtype.itemsize
        return round(held)

    def _saved_by_layer(self, model: Any) -> Sum:
        if not (self._shape.uses_gradient_checkpointing or self._is_autocast):
            return Sum(outside=self._step.saved_bytes(model))
        prefixes = layer_prefixes(self._shape)
        layers = [0.0] * self._shape.num_layers
        outside = 0
        for (scope, _), num_bytes in self._step.saved_by_label(model).items():
            layer = layer_of(scope, prefixes)
            if layer is None:
                outside += num_bytes
            else:
                layers[layer] += num_bytes
        return Sum(outside=outside, layers=tuple(layers))

    def _estimate(
        self,
        *,
        weights: int,
        adapter: int,
        num_trained: int,
        activations: int,
        is_approximate: bool = False,
    ) -> MemoryEstimate:
        frozen_forward, flow = self._predictor.transients
        worst = max(activations + flow, frozen_forward, num_trained * _FLOAT32)
        components = {
            "weights": weights,
            "adapter": adapter,
            "gradients": adapter,
            "optimizer_state": num_trained * _ADAMW_STATES * _FLOAT32,
            "activations": activations,
            "transients": worst - activations,
        }
        total = sum(components.values())
        return MemoryEstimate(
            total_bytes=total,
            components={**components, "total": total},
            is_approximate=is_approximate or self._predictor.is_approximate,
        )

    @cached_property
    def _bare_weights(self) -> int:
        """Bytes that do not train where the head alone trains."""
        try:
            model = self._step.build(Configuration(modules=(), learning_rate=1.0))
            return self._step.weight_bytes(model)
        except Exception:
            return self._shape.num_base_parameters * self._dtype.itemsize

    @property
    def _adapter_itemsize(self) -> int:
        """PEFT keeps adapters of half-precision models in float32."""
        return max(self._dtype.itemsize, _FLOAT32)
