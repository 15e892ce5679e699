"""Which rows are in which batch, and batches as padded arrays.

The batch of a training step depends on the lengths of the rows, the batch size, the seed and
the step alone, so that a worker can start at any step. Rows are visited in one permutation
after the other, each seeded with (seed, epoch). The sequence is cut into chunks of
:data:`CHUNK_STEPS` batches; within a chunk rows of similar length share a batch, so that little
is computed on padding, and the batches come in an order seeded with (seed, chunk). All batches
are full; a chunk may reach over the end of an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopeft.workers.dataset import INPUT_IDS, EncodedSplit, Field

#: Batches whose rows are sorted by length together. More saves more padding; fewer mixes more.
CHUNK_STEPS = 16


def batch_indices(
    lengths: NDArray[np.int64], batch_size: int, seed: int, step: int
) -> NDArray[np.int64]:
    """Return the ``batch_size`` rows of optimiser step ``step``, which counts from 0.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows of a batch.
        seed: Seeds the order.
        step: The optimiser step.

    Raises:
        ValueError: there are no rows, or an argument is below its range.
    """
    num_rows = len(lengths)
    if num_rows < 1 or batch_size < 1 or seed < 0 or step < 0:
        raise ValueError(
            "expected at least one row, batch_size >= 1, seed >= 0 and step >= 0, received "
            f"{num_rows} rows, {batch_size}, {seed} and {step}"
        )
    chunk, place = divmod(step, CHUNK_STEPS)
    rows = _stream(num_rows, seed, chunk * CHUNK_STEPS * batch_size, CHUNK_STEPS * batch_size)
    by_length = rows[np.argsort(lengths[rows], kind="stable")].reshape(CHUNK_STEPS, batch_size)
    order = np.random.default_rng([seed, chunk, _BATCH_ORDER]).permutation(CHUNK_STEPS)
    batch: NDArray[np.int64] = by_length[order[place]]
    return batch


#: Sets the generator of the batches' order apart from those of the permutations.
_BATCH_ORDER = 1


def _stream(num_rows: int, seed: int, start: int, size: int) -> NDArray[np.int64]:
    """Return ``size`` rows from position ``start`` of the endless sequence of permutations."""
    epochs, places = np.divmod(np.arange(start, start + size, dtype=np.int64), num_rows)
    indices = np.empty(size, dtype=np.int64)
    for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
        here = epochs == epoch
        indices[here] = _permutation(num_rows, seed, epoch)[places[here]]
    return indices


@lru_cache(maxsize=4)
def _permutation(num_rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    permutation = np.random.default_rng([seed, epoch]).permutation(num_rows).astype(np.int64)
    permutation.setflags(write=False)
    return permutation


def evaluation_batches(split: EncodedSplit, batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of each batch, longest examples first, so that little is padded.

    Every row comes once; rows of equal length keep their order. Outputs written to
    ``outputs[indices]`` stand in row order.
    """
    order = np.argsort(-split.lengths, kind="stable").astype(np.int64)
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def collate(
    split: EncodedSplit,
    indices: NDArray[np.int64],
    pad_token_id: int,
    pad_to_multiple: int = 8,
) -> dict[str, NDArray[Any]]:
    """Return the examples at ``indices`` as one batch, padded on the right.

    Args:
        split: Where the examples are.
        indices: ``b`` examples, at least one.
        pad_token_id: Fills ``input_ids``; every other field has its own filling.
        pad_to_multiple: The padded length of a field is the smallest multiple of it that holds
            the longest example.

    Returns:
        Every field of the split: ragged ones ``b x t``, integers as ``int64`` and other numbers
        as ``float32``; dense ones ``b x ...`` as they are. ``attention_mask``, ``b x t``
        ``int64``, where there are ``input_ids`` of several lengths. ``labels`` are those of the
        tokens where the split has such a field, else ``b`` in the split's dtype. With several
        sequences an example, every field is ``b x sequences x ...``.
    """
    sequences = indices
    if split.num_sequences > 1:
        places = np.arange(split.num_sequences, dtype=np.int64)
        sequences = (indices[:, None] * split.num_sequences + places).ravel()
    batch: dict[str, NDArray[Any]] = {}
    for name, field in split.fields.items():
        if field.offsets is None:
            batch[name] = field.values[sequences]
            continue
        is_tokens = name == INPUT_IDS
        batch[name], present = _padded(
            field, sequences, pad_token_id if is_tokens else field.fill, pad_to_multiple
        )
        if is_tokens and PACKED_BY not in split.fields:
            batch["attention_mask"] = present.astype(np.int64)
    if split.num_sequences > 1:
        shape = (len(indices), split.num_sequences)
        batch = {name: array.reshape(*shape, *array.shape[1:]) for name, array in batch.items()}
    if "labels" not in split.fields:
        batch["labels"] = split.labels[indices]
    return batch


#: A split that brings positions of its own holds several examples in one sequence. Attention
#: then is told apart by positions, and a mask would say otherwise.
PACKED_BY = "position_ids"


def _padded(
    field: Field, sequences: NDArray[np.int64], fill: float, multiple: int
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return ``b x t`` values, and which of them are there."""
    assert field.offsets is not None
    starts = field.offsets[sequences]
    lengths = field.offsets[sequences + 1] - starts
    width = -(-max(1, int(lengths.max())) // multiple) * multiple
    columns = np.arange(width, dtype=np.int64)
    present = columns < lengths[:, None]
    is_integer = np.issubdtype(field.values.dtype, np.integer)
    array = np.full((len(sequences), width), fill, dtype=np.int64 if is_integer else np.float32)
    array[present] = field.values[(starts[:, None] + columns)[present]]
    return array, present
