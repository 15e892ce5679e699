"""Predict training memory from shapes: no weights, no GPU."""

from autopeft.workers.memory.model import MemoryEstimate, MemoryModel

__all__ = ["MemoryEstimate", "MemoryModel"]
