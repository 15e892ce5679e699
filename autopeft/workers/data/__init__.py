"""Data: read, split, encoded and batched."""

from autopeft.workers.data.batches import batch_indices, collate, evaluation_batches
from autopeft.workers.data.encoding import encode_splits
from autopeft.workers.data.table import DataWarning

__all__ = [
    "DataWarning",
    "batch_indices",
    "collate",
    "encode_splits",
    "evaluation_batches",
]
