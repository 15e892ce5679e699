"""Train one segment and evaluate it: the built-in loop.

Every step is a function of (seed, step) and of the state before it: batch order, dropout and
learning rate are derived, not carried. So a trial trained in segments equals one trained in one
go, bit for bit on one device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autopeft.workers.data.batches import batch_indices, collate, evaluation_batches
from autopeft.workers.dataset import TokenizedSplit
from autopeft.workers.injection import derive_seed, trainable_parameters
from autopeft.workers.settings import TrainingSettings
from autopeft.workers.tasks.base import Task

#: What AdamW keeps for each parameter; ``step`` is a scalar.
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class DivergedError(Exception):
    """Training left the finite numbers; the trial cannot go on."""


def learning_rate_factor(step: int, settings: TrainingSettings) -> float:
    """Return the learning rate of a step as a fraction of the peak, in (0, 1].

    Linear warm-up over the first ``warmup_fraction`` of the trial's full steps, then constant,
    or falling to 0 just after the last step, in a line or along half a cosine (equation 5 of
    arXiv 1608.03983, without restarts).

    Args:
        step: Optimiser steps already done, in ``[0, settings.steps)``.
        settings: Schedule and full number of steps.
    """
    num_warmup = math.ceil(settings.warmup_fraction * settings.steps)
    if step < num_warmup:
        return (step + 1) / (num_warmup + 1)
    if settings.schedule == "constant":
        return 1.0
    progress = (step - num_warmup) / max(1, settings.steps - num_warmup)
    if settings.schedule == "linear":
        return 1.0 - progress
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def make_optimizer(
    model: Any, learning_rate: float, settings: TrainingSettings
) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters.

    Weight decay touches weight matrices only: biases, scales (IA3), magnitudes (DoRA) and
    normalisations do not decay.
    """
    parameters = trainable_parameters(model)
    decays = {
        name
        for name, parameter in parameters.items()
        if parameter.ndim >= 2 and name.endswith("weight") and "norm" not in name.lower()
    }
    groups = [
        {
            "params": [p for name, p in parameters.items() if name in decays],
            "weight_decay": settings.weight_decay,
        },
        {
            "params": [p for name, p in parameters.items() if name not in decays],
            "weight_decay": 0.0,
        },
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate)


def optimizer_tensors(model: Any, optimizer: torch.optim.AdamW) -> dict[str, torch.Tensor]:
    """Return AdamW's state as ``<parameter name>:<moment>`` tensors."""
    return {
        f"{name}:{moment}": optimizer.state[parameter][moment]
        for name, parameter in trainable_parameters(model).items()
        if parameter in optimizer.state
        for moment in MOMENTS
    }


def load_optimizer_tensors(
    model: Any, optimizer: torch.optim.AdamW, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Put what :func:`optimizer_tensors` returned into a fresh optimiser.

    Raises:
        ValueError: the tensors belong to another set of parameters.
    """
    parameters = trainable_parameters(model)
    # A parameter that never received a gradient has no state, as in AdamW itself.
    stored = {key.rpartition(":")[0] for key in tensors}
    expected = {f"{name}:{moment}" for name in stored for moment in MOMENTS}
    if not stored <= parameters.keys() or set(tensors) != expected:
        odd = sorted((stored - parameters.keys()) or (set(tensors) ^ expected))[:3]
        raise ValueError(f"optimiser state of other parameters, for example {', '.join(odd)}")
    for name in stored:
        parameter = parameters[name]
        # The step counter stays on the CPU, where AdamW keeps it.
        optimizer.state[parameter] = {
            moment: tensors[f"{name}:{moment}"].to(
                "cpu" if moment == "step" else parameter.device, copy=True
            )
            for moment in MOMENTS
        }


def train_segment(
    model: Any,
    optimizer: torch.optim.AdamW,
    split: TokenizedSplit,
    task: Task,
    settings: TrainingSettings,
    *,
    learning_rate: float,
    seed: int,
    from_step: int,
    to_step: int,
    pad_token_id: int,
) -> float:
    """Train ``model`` in place from one step to another.

    Args:
        model: Injected model at ``from_step``.
        optimizer: Its AdamW at ``from_step``.
        split: Training rows.
        task: Gives the loss.
        settings: Schedule over the trial's full steps, batch size, clipping.
        learning_rate: Peak learning rate.
        seed: Seed of the trial.
        from_step: Optimiser steps already done.
        to_step: Optimiser steps done at the end.
        pad_token_id: Token that fills batches.

    Returns:
        The mean training loss of these steps.

    Raises:
        DivergedError: a loss or a gradient norm is NaN or infinite.
    """
    device = next(model.parameters()).device
    parameters = list(trainable_parameters(model).values())
    lengths = split.lengths
    model.train()
    losses: list[float] = []
    with private_random_state(device):
        for step in range(from_step, to_step):
            rate = learning_rate * learning_rate_factor(step, settings)
            for group in optimizer.param_groups:
                group["lr"] = rate
            rows = batch_indices(lengths, settings.batch_size, seed, step)
            batch, labels = _to_device(collate(split, rows, pad_token_id), device)
            torch.manual_seed(derive_seed(seed, "dropout", step))
            loss = task.loss(model(**batch).logits, labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
            # One transfer a step tells both numbers.
            loss_value, norm_value = torch.stack([loss.detach(), norm]).tolist()
            if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
                raise DivergedError(
                    f"step {step + 1}: loss {loss_value:g}, gradient norm {norm_value:g}"
                )
            optimizer.step()
            losses.append(loss_value)
    return math.fsum(losses) / max(1, len(losses))


def evaluate(
    model: Any, split: TokenizedSplit, *, batch_size: int, pad_token_id: int
) -> NDArray[np.float32]:
    """Return the raw outputs of every row, ``n x num_outputs``, in row order.

    Rows are batched by length, so that little is computed on padding. The composition of the
    batches depends on the split alone.

    Raises:
        DivergedError: an output is NaN or infinite.
    """
    device = next(model.parameters()).device
    model.eval()
    outputs: NDArray[np.float32] | None = None
    with torch.inference_mode():
        for rows in evaluation_batches(split, batch_size):
            batch, _ = _to_device(collate(split, rows, pad_token_id), device)
            values = model(**batch).logits.float().cpu().numpy()
            if outputs is None:
                outputs = np.empty((len(split), values.shape[1]), dtype=np.float32)
            outputs[rows] = values
    assert outputs is not None, "a split without rows"
    if not np.isfinite(outputs).all():
        raise DivergedError("the trained model yields outputs that are not finite")
    return outputs


def _to_device(
    collated: Mapping[str, NDArray[Any]], device: torch.device
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Split a collated batch into what the model takes and the labels."""
    batch = {name: torch.from_numpy(array).to(device) for name, array in collated.items()}
    return batch, batch.pop("labels")


@contextmanager
def private_random_state(device: torch.device) -> Iterator[None]:
    """Give the global random states back as they were: the driver may share this process."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield
