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
from autopeft.search_spaces.configuration import Configuration, Module, Setting
from autopeft.search_spaces.method import get_method
from autopeft.workers.injection import trainable_parameters
from autopeft.workers.memory.attention import Device
from autopeft.workers.memory.ledger import LayeredLedger, WholeModelLedger
from autopeft.workers.memory.sizes import Knob, NotAffineError, configuration_of, knob_values
from autopeft.workers.memory.step import TrainingStep

_FLOAT32 = 4
#: One float32 state for the mean and one for the square of each gradient.
_ADAMW_STATES = 2
_Ledger = LayeredLedger | WholeModelLedger
#: Methods with their settings that are neither sites nor knobs.
_Key = tuple[tuple[str, tuple[tuple[str, Setting], ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes of one training step.

    Attributes:
        total_bytes: The peak; see :class:`MemoryModel` for what is in it.
        components: ``weights`` (frozen parameters and buffers), ``adapter`` (everything that
            trains, task head included), ``gradients``, ``optimizer_state``, ``activations``
            (saved between forward and backward) and ``total``, all in bytes. They do not add up
            to the total: gradients and activations peak at different times.
    """

    total_bytes: int
    components: Mapping[str, int]


class MemoryModel:
    """Predict the peak memory of one training step with AdamW.

    Counted, in bytes: frozen weights and buffers by dtype; what trains; AdamW's two float32
    states for each trained parameter; and the larger of

    * the end of the forward pass: all distinct storages autograd saved, loss included;
    * the optimiser step: a gradient for each trained parameter, and one float32 copy of what
      trains, which the multi-tensor AdamW of torch makes.

    Gradients do not exist at the end of the forward pass, as they are set to None between
    steps. Not counted: what an allocator rounds up or keeps, kernel workspaces, temporary
    tensors inside a forward or backward node, the device's own context, the batch itself.

    Batches are taken as full and padded to ``tokens``. Dropout is on, as in training.
    Deterministic; a model of the meta device is built on first use.
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
    ) -> None:
        """Describe the step; nothing is built yet.

        Args:
            config: transformers config with the task head described (``num_labels``).
            shape: Shape of the same model.
            batch_size: Examples in a batch.
            tokens: Tokens of each example, padding included.
            task: Name of the task.
            dtype: Of the frozen weights.
            device: Whose attention kernels are accounted for.
        """
        self._shape = shape
        self._dtype = dtype
        self._step = TrainingStep(
            config=config,
            shape=shape,
            batch_size=batch_size,
            tokens=tokens,
            task=task,
            dtype=dtype,
            device=device,
        )
        self._ledgers: dict[_Key, _Ledger] = {}
        self._not_affine: set[Knob] = set()
        self._parameters: dict[Module, int] = {}

    def probe(self, configuration: Configuration) -> MemoryEstimate:
        """Build the configuration on the meta device and account for one step, exactly."""
        model = self._step.build(configuration)
        trained = trainable_parameters(model)
        parameters = list(model.parameters())
        frozen = [p for p in parameters if not p.requires_grad] + list(model.buffers())
        return _estimate(
            weights=sum(tensor.nbytes for tensor in frozen),
            adapter=sum(parameter.nbytes for parameter in trained.values()),
            num_trained=sum(parameter.numel() for parameter in trained.values()),
            activations=self._step.saved_bytes(model),
        )

    def predict(self, configurations: Sequence[Configuration]) -> NDArray[np.int64]:
        """Return what :meth:`probe` would find, for many configurations at once.

        The first call that meets a method, or a variant of one such as DoRA, takes a second
        or so to account for it; after that a configuration costs some ten microseconds.

        Returns:
            ``n`` peaks in bytes.
        """
        known: dict[tuple[Module, ...], int] = {}
        for configuration in configurations:
            if configuration.modules not in known:
                known[configuration.modules] = self._predict(configuration.modules)
        return np.array([known[c.modules] for c in configurations], dtype=np.int64)

    def _predict(self, modules: tuple[Module, ...]) -> int:
        head = self._head_only
        num_adapter = sum(self._num_parameters(module) for module in modules)
        return _estimate(
            weights=head.components["weights"],
            adapter=head.components["adapter"] + num_adapter * self._adapter_itemsize,
            num_trained=self._shape.num_head_parameters + num_adapter,
            activations=self._saved(modules),
        ).total_bytes

    @cached_property
    def _head_only(self) -> MemoryEstimate:
        return self.probe(configuration_of(()))

    @property
    def _adapter_itemsize(self) -> int:
        """PEFT keeps adapters of half-precision models in float32."""
        return max(self._dtype.itemsize, _FLOAT32)

    def _num_parameters(self, module: Module) -> int:
        if module not in self._parameters:
            method = get_method(module.method)
            self._parameters[module] = method.num_parameters(self._shape, module)
        return self._parameters[module]

    def _saved(self, modules: tuple[Module, ...]) -> int:
        if not modules:
            return self._head_only.components["activations"]
        ledger = self._ledger(modules)
        if ledger is None:
            return self._step.saved_bytes(self._step.build(configuration_of(modules)))
        settings = {
            (module.method, name): value for module in modules for name, value in module.settings
        }
        point = np.array([1.0, *(settings[knob] for knob in ledger.table.knobs)])
        return round(float(ledger.saved(modules) @ point))

    def _ledger(self, modules: tuple[Module, ...]) -> _Ledger | None:
        """Return the ledger for these modules; None where only a probe can tell."""
        placeable = [get_method(module.method).is_placeable for module in modules]
        if not all(placeable) and len(modules) > 1:
            return None
        while True:
            key = self._key(modules)
            if key in self._ledgers:
                return self._ledgers[key]
            kind = LayeredLedger if all(placeable) else WholeModelLedger
            values = knob_values(self._shape, [module.method for module in modules])
            values = {knob: v for knob, v in values.items() if knob not in self._not_affine}
            try:
                ledger = kind(self._step, modules, values)
            except NotAffineError as error:
                self._not_affine.add(error.knob)
                continue
            for other in self._ledgers.values():
                if _same_sizes(other, ledger):
                    ledger = other
            self._ledgers[key] = ledger
            return ledger
    def _key(self, modules: tuple[Module, ...]) -> _Key:
        return tuple((module.method, self._variant(module)) for module in modules)

    def _variant(self, module: Module) -> tuple[tuple[str, Setting], ...]:
        """Return the settings that decide which storages there are at all."""
        free = {
            dimension.name
            for dimension in get_method(module.method).dimensions(self._shape)
            if dimension.kind == "subset"
        }
        knobs = knob_values(self._shape, [module.method]).keys() - self._not_affine
        free |= {name for _, name in knobs}
        return tuple((name, value) for name, value in module.settings if name not in free)


def _estimate(*, weights: int, adapter: int, num_trained: int, activations: int) -> MemoryEstimate:
    optimizer_state = num_trained * _ADAMW_STATES * _FLOAT32
    at_optimizer = adapter + num_trained * _FLOAT32
    total = weights + adapter + optimizer_state + max(activations, at_optimizer)
    components = {
        "weights": weights,
        "adapter": adapter,
        "gradients": adapter,
        "optimizer_state": optimizer_state,
        "activations": activations,
        "total": total,
    }
    return MemoryEstimate(total_bytes=total, components=components)


def _same_sizes(one: _Ledger, other: _Ledger) -> bool:
    """Tell whether two ledgers would give the same answers."""
    return (
        type(one) is type(other)
        and one.table.knobs == other.table.knobs
        and one.table.rows.keys() == other.table.rows.keys()
        and np.array_equal(one.table.coefficients, other.table.coefficients)
    )
