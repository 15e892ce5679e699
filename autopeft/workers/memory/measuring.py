"""Measure the peak memory of training, where it can be measured, by the prediction's definition.

Two kinds of figures:

* ``accounted``, on the CPU, where an allocator tells nothing of single trials: frozen weights,
  adapter, gradients, optimiser state and every tensor alive at the worst moment of one step,
  each storage once at the size that was asked for;
* ``cuda``: what the caching allocator had handed out and had reserved at the most. It counts per
  process, so that workers which share a GPU do not see each other, and its peaks are reset for
  each segment. What stood there before the trial is taken off, and the base model, noted when it
  was loaded, is put back: neither what another base in the same process holds nor what an
  earlier trial left behind becomes part of a trial's figure.

Batches of a segment seldom hold the longest examples together, and one that does decides whether
training fits. Once a trial, before its first segment, one step is therefore taken with a batch of
the longest examples, on a model of its own that is thrown away: frozen weights are shared, the
rest is built anew, and the random state is given back, so that training is the same to the bit.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import torch

from autopeft.records import MeasuredMemory
from autopeft.workers.adapter_tensors import trainable_parameters
from autopeft.workers.data.batches import collate
from autopeft.workers.dataset import EncodedSplit
from autopeft.workers.hooks import Hooks
from autopeft.workers.memory.accounting import LiveBytes
from autopeft.workers.memory.inputs import longest_rows
from autopeft.workers.settings import TrainingSettings
from autopeft.workers.tasks.base import Task
from autopeft.workers.training import (
    accumulate_gradients,
    autocast,
    private_random_state,
    to_device,
)

Batch = dict[str, torch.Tensor]


def longest_batches(
    split: EncodedSplit, settings: TrainingSettings, pad_token_id: int
) -> list[Batch]:
    """Return the parts of the batch that needs most: the split's longest examples.

    Of a batch that is computed in many parts there are two: the second meets the gradients of
    the first, and so does every later one.
    """
    rows = longest_rows(split, settings.micro_batch_size)
    batch = to_device(collate(split, rows, pad_token_id), torch.device("cpu"))
    return [batch] * min(2, settings.gradient_accumulation)


def take_longest_step(
    model: Any,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    task: Task,
    settings: TrainingSettings,
    hooks: Hooks,
    on_start: Callable[[], None] = lambda: None,
) -> None:
    """Take a training step as a segment does, whose outcome nobody asks for.

    Afterwards ``model`` and ``optimizer`` are not what they were, and the random state is. The
    first step of an optimiser makes its state and needs less than later ones: one with gradients
    of zero comes before.

    Args:
        model: Injected model.
        optimizer: Its optimiser, without a state.
        batches: Parts of the batch.
        task: Gives the loss.
        settings: How the job trains.
        hooks: What the methods do after each step.
        on_start: Called when the step itself begins.
    """
    device = next(model.parameters()).device
    parameters = list(trainable_parameters(model).values())
    model.train()
    with private_random_state(device):
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        on_start()
        cast = autocast(model, settings.precision)
        accumulate_gradients(model, task, list(batches), device, cast)
        torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        optimizer.step()
        hooks.after_step(model, 1, settings.steps)


def accounted_bytes(
    model: Any,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    task: Task,
    settings: TrainingSettings,
    hooks: Hooks,
) -> int:
    """Return the accounted peak of :func:`take_longest_step` on the CPU, in bytes.

    It is the very step, tensor by tensor; only what costly operations compute is left out where
    they have been run for the same sizes before, since nobody asks for its numbers.
    """
    live = LiveBytes(needs_numbers=False).leave_out(model)
    with live:
        take_longest_step(model, optimizer, batches, task, settings, hooks, live.restart)
    return resident_bytes(model) + live.peak


def resident_bytes(model: Any) -> int:
    """Return the bytes of all parameters and buffers of a model, each storage once."""
    storages = {
        storage._cdata: storage.nbytes()
        for tensor in (*model.parameters(), *model.buffers())
        if (storage := tensor.untyped_storage())
    }
    return sum(storages.values())


class CudaMemory:
    """The caching allocator's figures for the trials of one worker.

    Made before the base model is loaded; :meth:`base_is_loaded` is called right after.

    Args:
        device: The CUDA device.
        cuda: Stands in for ``torch.cuda``.
    """

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        self._device = device
        self._cuda = cuda
        self._base = self._base_reserved = 0
        self._before, self._before_reserved = self._now()

    def base_is_loaded(self) -> None:
        """Note what the base model takes."""
        allocated, reserved = self._now()
        self._base = allocated - self._before
        self._base_reserved = reserved - self._before_reserved
        self._before, self._before_reserved = allocated, reserved

    def limit(self, num_bytes: int) -> None:
        """Let this process hold no more than so many bytes of the device in tensors."""
        total = self._cuda.get_device_properties(self._device).total_memory
        self._cuda.set_per_process_memory_fraction(min(1.0, num_bytes / total), self._device)

    def begin(self) -> None:
        """Reset the peaks, before a trial's modules are built."""
        self.tidy()
        self._before, self._before_reserved = self._now()
        self._cuda.reset_peak_memory_stats(self._device)

    def tidy(self) -> None:
        """Let go of what earlier models left behind in reference cycles."""
        if self._cuda.memory_allocated(self._device) > self._before:
            gc.collect()
        self._cuda.empty_cache()

    def peaks(self) -> MeasuredMemory:
        """Return the peaks since :meth:`begin`."""
        allocated = self._cuda.max_memory_allocated(self._device) - self._before
        reserved = self._cuda.max_memory_reserved(self._device) - self._before_reserved
        return MeasuredMemory(
            kind="cuda",
            peak_bytes=self._base + allocated,
            reserved_bytes=self._base_reserved + reserved,
            base_bytes=self._base,
        )

    def _now(self) -> tuple[int, int]:
        return (
            int(self._cuda.memory_allocated(self._device)),
            int(self._cuda.memory_reserved(self._device)),
        )
