"""Let methods be built where there are shapes and no numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class NoPermutations(TorchFunctionMode):
    """Answer ``torch.randperm`` by its shape: drawing millions of numbers takes a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.randperm:
            return torch.empty(args[0], dtype=torch.int64, device="meta")
        return func(*args, **(kwargs or {}))
