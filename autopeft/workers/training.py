"""Train one segment and evaluate it: the built-in loop.

Every step is a function of (seed, step) and of the state before it: batch order, dropout and
learning rate are derived, not carried. So a trial trained in segments equals one trained in one
go, bit for bit on one device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autopeft.workers.adapter_tensors import trainable_parameters
from autopeft.workers.averaging import TailAverage
from autopeft.workers.data.batches import batch_indices, collate, evaluation_batches
from autopeft.workers.dataset import EncodedSplit
from autopeft.workers.hooks import NO_HOOKS, Hooks
from autopeft.workers.schedules import learning_rate_factor
from autopeft.workers.seeds import derive_seed
from autopeft.workers.settings import Precision, TrainingSettings
from autopeft.workers.tasks.base import Task


class DivergedError(Exception):
    """Training left the finite numbers; the trial cannot go on."""


def train_segment(
    model: Any,
    optimizer: torch.optim.Optimizer,
    split: EncodedSplit,
    task: Task,
    settings: TrainingSettings,
    *,
    learning_rate: float,
    seed: int,
    from_step: int,
    to_step: int,
    pad_token_id: int,
    hooks: Hooks = NO_HOOKS,
    factor: Callable[[int, TrainingSettings], float] = learning_rate_factor,
    average: TailAverage | None = None,
) -> float:
    """Train ``model`` in place from one step to another.

    Args:
        model: Injected model at ``from_step``.
        optimizer: Its optimiser at ``from_step``.
        split: Training rows.
        task: Gives the loss.
        settings: Schedule over the trial's full steps, batch size and its parts, clipping,
            precision.
        learning_rate: Peak learning rate.
        seed: Seed of the trial.
        from_step: Optimiser steps already done.
        to_step: Optimiser steps done at the end.
        pad_token_id: Token that fills batches.
        hooks: What the configuration's methods do after each step.
        factor: Returns the learning rate of a step as a fraction of the peak.
        average: Takes in the weights of each step.

    Returns:
        The mean training loss of these steps.

    Raises:
        DivergedError: a loss or a gradient norm is NaN or infinite.
    """
    device = next(model.parameters()).device
    parameters = list(trainable_parameters(model).values())
    lengths = split.lengths
    cast = autocast(model, settings.precision)
    model.train()
    losses: list[float] = []
    with private_random_state(device):
        for step in range(from_step, to_step):
            rate = learning_rate * factor(step, settings)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["lr_scale"]
            rows = batch_indices(lengths, settings.batch_size, seed, step)
            batches = [
                to_device(collate(split, part, pad_token_id), torch.device("cpu"))
                for part in np.array_split(rows, settings.gradient_accumulation)
            ]
            torch.manual_seed(derive_seed(seed, "dropout", step))
            optimizer.zero_grad(set_to_none=True)
            loss = accumulate_gradients(model, task, batches, device, cast)
            norm = torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
            # One transfer a step tells both numbers.
            loss_value, norm_value = torch.stack([loss, norm]).tolist()
            if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
                raise DivergedError(
                    f"step {step + 1}: loss {loss_value:g}, gradient norm {norm_value:g}"
                )
            optimizer.step()
            hooks.after_step(model, step + 1, settings.steps)
            if average is not None:
                average.update(step + 1)
            losses.append(loss_value)
    return math.fsum(losses) / max(1, len(losses))


def accumulate_gradients(
    model: Any,
    task: Task,
    batches: list[dict[str, torch.Tensor]],
    device: torch.device,
    cast: AbstractContextManager[Any],
) -> torch.Tensor:
    """Add up the gradients of a batch given in parts, and return its detached mean loss.

    Each part counts by the terms of its loss (examples, or trained tokens), so that the sum is
    the gradient of the whole batch, up to rounding.
    """
    terms = [task.num_targets(batch) for batch in batches]
    total = torch.zeros((), device=device)
    for batch, num_terms in zip(batches, terms, strict=True):
        there = {name: tensor.to(device) for name, tensor in batch.items()}
        with cast:
            loss = task.loss(task.forward(model, there), there)
        if len(batches) > 1:
            loss = loss * (num_terms / max(1, sum(terms)))
        loss.backward()  # type: ignore[no-untyped-call]
        total = total + loss.detach()
    return total


def autocast(model: Any, precision: Precision) -> AbstractContextManager[Any]:
    """Return the context that a model's forward passes run in; it can be entered repeatedly.

    In bfloat16 the matrix products run in that type, whatever type the weights are stored in,
    while adapters, their gradients and the optimiser's state stay as they are. bfloat16 has
    float32's range, so no loss scaling is needed. Where frozen weights are stored in half
    precision or quantised it is taken in any case: their adapters are float32 all the same, and
    the two meet here.
    """
    if precision != "bfloat16" and not _is_stored_small(model):
        return nullcontext()
    device = next(model.parameters()).device
    return torch.autocast(device_type=device.type, dtype=torch.bfloat16)


def _is_stored_small(model: Any) -> bool:
    """Tell whether some frozen weights are stored in less than 32 bits."""
    return any(
        parameter.dtype.itemsize < 4
        for parameter in model.parameters()
        if not parameter.requires_grad
    )


def evaluate(
    model: Any,
    split: EncodedSplit,
    task: Task,
    *,
    batch_size: int,
    pad_token_id: int,
    precision: Precision = "auto",
) -> NDArray[np.float32]:
    """Return what the task keeps of every example, ``n x k``, in the order of the split.

    Examples are batched by length, so that little is computed on padding. The composition of the
    batches depends on the split alone.

    Raises:
        DivergedError: an output is NaN or infinite.
    """
    device = next(model.parameters()).device
    cast = autocast(model, precision)
    model.eval()
    outputs: NDArray[np.float32] | None = None
    with torch.inference_mode():
        for rows in evaluation_batches(split, batch_size):
            batch = to_device(collate(split, rows, pad_token_id), device)
            with cast:
                values = task.reduce(task.forward(model, batch), batch)
            if outputs is None:
                outputs = np.empty((len(split), values.shape[1]), dtype=np.float32)
            outputs[rows] = values
    assert outputs is not None, "a split without rows"
    if not np.isfinite(outputs).all():
        raise DivergedError("the trained model yields outputs that are not finite")
    return outputs


def to_device(
    collated: Mapping[str, NDArray[Any]], device: torch.device
) -> dict[str, torch.Tensor]:
    """Return a collated batch as tensors."""
    return {name: torch.from_numpy(array).to(device) for name, array in collated.items()}


@contextmanager
def private_random_state(device: torch.device) -> Iterator[None]:
    """Give the global random states back as they were: the driver may share this process."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield
