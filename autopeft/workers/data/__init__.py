"""Data: read, split, limited, tokenised and batched."""

from autopeft.workers.data.loading import load_splits
from autopeft.workers.data.tokenization import tokenize, tokenize_split

__all__ = ["load_splits", "tokenize", "tokenize_split"]
