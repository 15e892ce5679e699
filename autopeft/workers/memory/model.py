"""Peak memory of one training step, without the device it will run on and without weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.search_spaces.method import num_trained
from autopeft.workers.memory.inputs import Input
from autopeft.workers.memory.kernels import Device
from autopeft.workers.memory.optimizers import OPTIMIZERS, trained_tensors
from autopeft.workers.memory.predicting import OnMethod, Predictor
from autopeft.workers.memory.step import LossOf, TrainingStep
from autopeft.workers.optimizers import freeze_lora_a
from autopeft.workers.settings import Attention, SavedActivations

_FLOAT32 = 4

#: Part of a training step: up to the loss, back from it, and the optimiser's own step.
Phase = Literal["forward", "backward", "optimizer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes of one training step.

    Attributes:
        total_bytes: The peak; see :class:`MemoryModel` for what is in it.
        components: What there is at the peak, in bytes: ``weights`` (frozen parameters and
            buffers), ``adapter`` (all that trains, task head included), ``gradients``,
            ``optimizer_state``, ``activations`` (held from forward to backward), ``transients``
            (what the worst moment adds to these), and ``total``, their sum.
        phase: When the peak is reached.
        is_approximate: Whether a part could not be accounted for on the meta device and was
            estimated from sizes alone.
    """

    total_bytes: int
    components: Mapping[str, int]
    phase: Phase
    is_approximate: bool = False


class MemoryModel:
    """Predict the peak memory of one training step, from the second step on.

    Always there: frozen weights and buffers by dtype, what trains, and the optimiser's state for
    it. On top comes the worst of three phases:

    * ``forward``: all live tensors, up to the end of the loss;
    * ``backward``: what is still held of them, what the backward pass makes, and the gradients
      that are there already;
    * ``optimizer``: all gradients, and what the optimiser's step makes for a moment.

    :meth:`probe` runs a whole step of the very configuration on the meta device and follows
    every tensor, so that nothing is assumed; :meth:`predict` adds up what shallow models told.

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
        optimizer: str = "adamw",
        accumulation: int = 1,
        loss_of: LossOf = "task",
        in_float32: bool = True,
        attention: Attention = "auto",
        saved_activations: SavedActivations = "full",
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
            optimizer: A name of ``optimizers.OPTIMIZERS``.
            accumulation: Parts that a batch is computed in; ``batch_size`` is that of one part.
            loss_of: Whose loss counts: the task's, as in training here, or the model's own.
            in_float32: Whether all that trains is kept in float32, as in training here, or
                only what PEFT keeps so.
            attention: ``flash_attention_2`` in place of fused attention; else as the config
                says.
            saved_activations: How nonlinear parts keep what they save for the backward pass.
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
            weight_dtype=weight_dtype,
            inputs=inputs,
            accumulation=accumulation,
            loss_of=loss_of,
            freezes_lora_a=optimizer == "lora-fa",
            attention=attention,
            saved_activations=saved_activations,
        )
        self._optimizer = OPTIMIZERS[optimizer]
        self._in_float32 = in_float32
        self._optimizer_name = optimizer
        self._predictor = Predictor(self._step, self._optimizer)

    def probe(self, configuration: Configuration) -> MemoryEstimate:
        """Build the configuration on the meta device and account for one step.

        Where it cannot be built or run there, it is predicted.
        """
        try:
            return self.account_for(self._step.build(configuration))
        except Exception:  # whatever a method does that has no answer on the meta device
            return self._predicted(configuration.modules)

    def build(self, configuration: Configuration) -> Any:
        """Return the model that carries a configuration, on the meta device."""
        return self._step.build(configuration)

    def base(self) -> Any:
        """Return a copy of the base model on the meta device, frozen, in training mode."""
        return self._step.base()

    def account_for(self, model: Any) -> MemoryEstimate:
        """Account for one step of a model that :meth:`build` made, or that was made of a base.

        What requires a gradient trains, save for what the optimiser itself freezes.

        Raises:
            Exception: whatever the model raises on the meta device.
        """
        if self._step.freezes_lora_a:
            freeze_lora_a(model)
        weights = self._step.weight_bytes(model)
        run = self._step.run(model)
        trained = trained_tensors(model, in_float32=self._in_float32)
        adapter = sum(tensor.nbytes for tensor in trained)
        held = run.held - run.gradients_in_forward
        phases: dict[Phase, tuple[int, int, int]] = {
            "forward": (run.gradients_in_forward, held, run.forward),
            "backward": (run.gradients_in_backward, held, run.backward),
            "optimizer": (
                adapter,
                0,
                adapter + self._optimizer.step_bytes(trained, self._step.device),
            ),
        }
        return _worst(
            phases,
            weights=weights,
            adapter=adapter,
            optimizer_state=self._optimizer.state_bytes(trained),
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

    def estimate(self, configuration: Configuration) -> MemoryEstimate:
        """Return what :meth:`predict` adds up for a configuration, by component."""
        self._predictor.meet(configuration.modules)
        return self._predicted(configuration.modules)

    def _predicted(self, modules: tuple[Module, ...]) -> MemoryEstimate:
        added = self._predictor.add_up(modules)
        num_adapter = num_trained(self._shape, modules, self._optimizer_name)
        trained = self._shape.num_head_parameters + num_adapter
        # PEFT and the worker keep what trains in float32.
        adapter = trained * max(self._dtype.itemsize, _FLOAT32)
        earlier = adapter if self._step.accumulation > 1 else 0
        held = round(added.held)
        forth = earlier + round(max(added.forth, self._predictor.frozen_forward))
        gradients = 0 if earlier else round(added.gradients)
        back = earlier + round(added.back) - (round(added.gradients) - gradients)
        together = self._optimizer.together if self._step.device == "cuda" else 0
        step = adapter + max(together * adapter, added.step_bytes)
        return _worst(
            {
                "forward": (earlier, held, forth),
                "backward": (earlier + gradients, held, back),
                "optimizer": (adapter, 0, step),
            },
            weights=self._bare_weights + round(added.resident),
            adapter=adapter,
            optimizer_state=round(self._state_of(modules, added.state_share * adapter)),
            is_approximate=added.is_approximate or self._predictor.is_approximate,
        )

    def _state_of(self, modules: tuple[Module, ...], even: float) -> float:
        """Return the bytes of the optimiser's state for modules and head.

        Args:
            modules: Of one configuration.
            even: The same where every byte that trains has as many.
        """
        if self._optimizer.is_even:
            return even
        return self._predictor.head_state_bytes + sum(
            _FLOAT32
            * num_trained(self._shape, (module,), self._optimizer_name)
            * self._predictor.state_share(module)
            for module in modules
        )

    @cached_property
    def _bare_weights(self) -> int:
        """Bytes that do not train where the head alone trains."""
        try:
            model = self._step.build(Configuration(modules=(), learning_rate=1.0))
            return self._step.weight_bytes(model)
        except Exception:
            return self._shape.num_base_parameters * self._dtype.itemsize


def _worst(
    phases: Mapping[Phase, tuple[int, int, int]],
    *,
    weights: int,
    adapter: int,
    optimizer_state: int,
    is_approximate: bool = False,
) -> MemoryEstimate:
    """Return the estimate for the worst phase.

    Args:
        phases: For each its gradients, the activations held in it, and all live tensors.
        weights: Bytes of what does not train.
        adapter: Bytes of what trains.
        optimizer_state: Bytes of the optimiser's state.
        is_approximate: Whether a part was estimated from sizes alone.
    """
    phase = max(phases, key=lambda each: phases[each][2])
    gradients, held, live = phases[phase]
    activations = min(held, live - gradients)
    components = {
        "weights": weights,
        "adapter": adapter,
        "gradients": gradients,
        "optimizer_state": optimizer_state,
        "activations": activations,
        "transients": live - gradients - activations,
    }
    total = sum(components.values())
    return MemoryEstimate(
        total_bytes=total,
        components={**components, "total": total},
        phase=phase,
        is_approximate=is_approximate,
    )
