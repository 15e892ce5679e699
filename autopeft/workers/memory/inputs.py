"""A batch on the meta device: the shapes of what a training step takes, and nothing in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autopeft.workers.data.batches import collate
from autopeft.workers.dataset import EncodedSplit
from autopeft.workers.tasks.base import TASKS, Task

#: Choices of an example where the data have not told.
NUM_CHOICES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One array of a batch.

    Attributes:
        shape: Its extents, the batch first.
        dtype: ``int64``, ``float32``, ...
    """

    shape: tuple[int, ...]
    dtype: str


def inputs_of(batch: Mapping[str, NDArray[Any]], task: Task) -> dict[str, Input]:
    """Return what a collated batch looks like, and the places in it that the task looks at."""
    tensors = {name: torch.from_numpy(np.asarray(array)) for name, array in batch.items()}
    return {
        name: Input(shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))
        for name, tensor in (tensors | task.index_tensors(tensors)).items()
    }


def longest_inputs(
    split: EncodedSplit, batch_size: int, pad_token_id: int, task: str
) -> dict[str, Input]:
    """Return what a batch of a split's longest examples looks like.

    Args:
        split: Encoded examples.
        batch_size: How many of them go through the model together.
        pad_token_id: Token that fills batches.
        task: Name of the task, which decides what of the batch the loss looks at.
    """
    batch = collate(split, longest_rows(split, batch_size), pad_token_id)
    return inputs_of(batch, TASKS.get(task)())


def longest_rows(split: EncodedSplit, batch_size: int) -> NDArray[np.int64]:
    """Return the ``batch_size`` longest examples of a split, some twice where it has fewer.

    Of examples of equal length those come first that train on more tokens, where it is tokens
    that are trained on.
    """
    keys = [-split.lengths]
    if "labels" in split.fields and split.fields["labels"].offsets is not None:
        has_label = split.fields["labels"].values >= 0
        starts = split.fields["labels"].offsets
        ends = np.concatenate([[0], np.cumsum(has_label)])[starts]
        keys.insert(0, -np.diff(ends))
    by_length = np.lexsort(keys).astype(np.int64)
    longest: NDArray[np.int64] = np.resize(by_length, batch_size)
    return longest


def meta_batch(inputs: Mapping[str, Input]) -> dict[str, torch.Tensor]:
    """Return a batch on the meta device.

    Masks are left out: with one, transformers asks whether it is all ones, which a meta tensor
    cannot answer; so are positions, by which it looks for packed examples.
    """
    return {
        name: torch.empty(each.shape, dtype=getattr(torch, each.dtype), device="meta")
        for name, each in inputs.items()
        if not name.endswith("attention_mask") and name != "position_ids"
    }


def default_inputs(config: Any, task: Task, batch_size: int, tokens: int) -> dict[str, Input]:
    """Return what a batch of a task looks like where no data are at hand."""
    labels = Input(shape=(batch_size,), dtype="int64")
    if task.modality == "image":
        return {"pixel_values": _image(config, batch_size), "labels": labels}
    if task.modality == "audio":
        return {"input_values": _sound(config, batch_size, tokens), "labels": labels}
    per_token = Input(shape=(batch_size, tokens), dtype="int64")
    if task.name == "multiple-choice":
        choices = Input(shape=(batch_size, NUM_CHOICES, tokens), dtype="int64")
        return {"input_ids": choices, "labels": labels}
    if task.name == "seq2seq-lm":
        return {"input_ids": per_token, "labels": per_token}
    if task.label_kind == "none" or task.name == "token-classification":
        return {"input_ids": per_token, "labels": per_token}
    if task.label_kind == "amounts":
        labels = Input(shape=(batch_size,), dtype="float32")
    return {"input_ids": per_token, "labels": labels}


def _image(config: Any, batch_size: int) -> Input:
    vision = getattr(config, "vision_config", config)
    size = getattr(vision, "image_size", 224)
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    channels = int(getattr(vision, "num_channels", 3))
    return Input(shape=(batch_size, channels, int(height), int(width)), dtype="float32")


def _sound(config: Any, batch_size: int, tokens: int) -> Input:
    """Return a spectrogram where the model takes one, else samples."""
    bins = getattr(config, "num_mel_bins", None)
    if bins is None:
        return Input(shape=(batch_size, tokens), dtype="float32")
    length = int(getattr(config, "max_length", None) or tokens)
    return Input(shape=(batch_size, length, int(bins)), dtype="float32")
