"""What adapters of several methods are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import nn

Tensor = torch.Tensor


class Bottleneck(nn.Module):
    """Down, activation, up: ``W_up f(W_down x + b_down) + b_up``, zero at the start.

    ``W_down`` is drawn as ``nn.Linear`` draws it, ``W_up`` and the biases are zero.
    """

    ACTIVATIONS: ClassVar[dict[str, Callable[[], nn.Module]]] = {
        "relu": nn.ReLU,
        "gelu": nn.GELU,
        "silu": nn.SiLU,
        "tanh": nn.Tanh,
    }

    def __init__(self, width: int, size: int, activation: str) -> None:
        super().__init__()
        self.down = nn.Linear(width, size)
        self.activation = self.ACTIVATIONS[activation]()
        self.up = nn.Linear(size, width)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``... x width`` to ``... x width``."""
        up: Tensor = self.up(self.activation(self.down(x)))
        return up


class Gate(nn.Module):
    """UniPELT's gate (arXiv 2110.07577): ``sigmoid(w x + b)``, one number a token.

    It starts at one half for every input.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``... x width`` to ``... x 1``."""
        return torch.sigmoid(self.linear(x))
