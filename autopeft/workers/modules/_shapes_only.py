"""Let methods be built where there are shapes and no numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def no_random_start() -> Iterator[None]:
    """Start at zeros what PEFT would start at random: it draws numbers before it drops them."""
    with mock.patch.object(torch.nn.init, "kaiming_uniform_", _zeros):
        yield


def _zeros(tensor: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
    if tensor.device.type != "cpu" or tensor.dtype != torch.float32:
        return torch.nn.init.zeros_(tensor)
    tensor.detach().numpy().fill(0.0)  # torch would wake its threads for it
    return tensor


class NoPermutations(TorchFunctionMode):
    """Answer ``torch.randperm`` by its shape: drawing millions of numbers takes a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.randperm:
            return torch.empty(args[0], dtype=torch.int64, device="meta")
        return func(*args, **(kwargs or {}))
