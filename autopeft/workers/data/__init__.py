"""Data: read, split, limited, tokenised and batched."""

from autopeft.workers.data.batches import batch_indices, collate, evaluation_batches
from autopeft.workers.data.loading import fingerprint, load_splits
from autopeft.workers.data.table import DataWarning
from autopeft.workers.data.tokenization import tokenize, tokenize_split

__all__ = [
    "DataWarning",
    "batch_indices",
    "collate",
    "evaluation_batches",
    "fingerprint",
    "load_splits",
    "tokenize",
    "tokenize_split",
]
