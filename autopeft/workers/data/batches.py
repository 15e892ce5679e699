"""Which rows are in which batch, and batches as padded arrays.

The batch of a training step depends on the number of rows, the batch size, the seed and the
step alone, so that a worker can start at any step: rows are visited in one permutation after
the other, each seeded with (seed, epoch), and a batch is the next slice of that sequence. All
batches are full; one may reach over the end of an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopeft.workers.dataset import TokenizedSplit


def batch_indices(num_rows: int, batch_size: int, seed: int, step: int) -> NDArray[np.int64]:
    """Return the ``batch_size`` rows of optimiser step ``step``, which counts from 0.

    Raises:
        ValueError: there are no rows, or an argument is below its range.
    """
    if num_rows < 1 or batch_size < 1 or seed < 0 or step < 0:
        raise ValueError(
            "expected num_rows >= 1, batch_size >= 1, seed >= 0 and step >= 0, received "
            f"{num_rows}, {batch_size}, {seed} and {step}"
        )
    positions = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
    epochs, places = np.divmod(positions, num_rows)
    indices = np.empty(batch_size, dtype=np.int64)
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
