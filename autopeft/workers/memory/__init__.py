"""Predict training memory from shapes: no weights, no GPU."""

from autopeft.workers.memory.inputs import longest_inputs
from autopeft.workers.memory.model import MemoryEstimate, MemoryModel
from autopeft.workers.memory.step import step_dtypes

__all__ = ["MemoryEstimate", "MemoryModel", "longest_inputs", "step_dtypes"]
