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

from autopeft.workers.dataset import TokenizedSplit

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


def evaluation_batches(split: TokenizedSplit, batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of each batch, longest examples first, so that little is padded.

    Every row comes once; rows of equal length keep their order. Outputs written to
    ``outputs[indices]`` stand in row order.
    """
    order = np.argsort(-split.lengths, kind="stable").astype(np.int64)
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def collate(
    split: TokenizedSplit,
    indices: NDArray[np.int64],
    pad_token_id: int,
    pad_to_multiple: int = 8,
) -> dict[str, NDArray[Any]]:
    """Return the rows at ``indices`` as one batch, padded on the right.

    Args:
        split: Where the rows are.
        indices: ``b`` rows, at least one.
        pad_token_id: Fills ``input_ids``; the other arrays are filled with 0.
        pad_to_multiple: The padded length is the smallest multiple of it that holds the
            longest row.

    Returns:
        ``input_ids`` and ``attention_mask``, both ``b x t`` ``int64``; ``token_type_ids`` the
        same where the split has them; ``labels``, ``b`` in the split's dtype.
    """
    starts, lengths = split.offsets[indices], split.lengths[indices]
    width = -(-max(1, int(lengths.max())) // pad_to_multiple) * pad_to_multiple
    columns = np.arange(width, dtype=np.int64)
    present = columns < lengths[:, None]
    flat = (starts[:, None] + columns)[present]

    def padded(values: NDArray[Any], fill: int) -> NDArray[np.int64]:
        array = np.full((len(indices), width), fill, dtype=np.int64)
        array[present] = values[flat]
        return array

    batch = {
        "input_ids": padded(split.input_ids, pad_token_id),
        "attention_mask": present.astype(np.int64),
    }
    if split.token_type_ids is not None:
        batch["token_type_ids"] = padded(split.token_type_ids, 0)
    return {**batch, "labels": split.labels[indices]}
