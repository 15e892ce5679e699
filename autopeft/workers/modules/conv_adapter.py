"""Convolutional bypasses, "Convpass" (Jie and Deng 2022, arXiv 2207.07039, section 3.2).

The output h of a block with input x becomes::

    h + s W_up gelu(C(gelu(W_down x)))

where C is a 3 x 3 convolution over the grid that the patches form. Tokens that stand for no
patch (class tokens) come first and are convolved each as an image of one pixel. As in the
authors' code C starts as the identity and W_up at zero; all three have biases, at first zero.

Deviations: the exact GELU in place of its sigmoid approximation; for spectrograms, whose grid is
no square, C is a convolution of 3 along the row of patches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autopeft.workers.modules._blocks import BlockPart
from autopeft.workers.modules._framework import BlockConfig, register_method
from autopeft.workers.modules._layers import Pool


@dataclass
class ConvAdapterConfig(BlockConfig):
    """Config of convolutional adapters.

    Attributes:
        bottleneck: Channels inside the adapter.
        scaling: Constant factor of the update.
        num_dimensions: 2 for a square grid of patches, 1 for a row of them.
    """

    bottleneck: int = field(default=8, metadata={"help": "Channels inside the adapter."})
    scaling: float = field(default=1.0, metadata={"help": "Constant factor of the update."})
    num_dimensions: int = field(default=2, metadata={"help": "Dimensions of the grid: 1 or 2."})

    injection_order: ClassVar[int] = 2


class ConvAdapter(BlockPart):
    """One adapter beside one block."""

    def __init__(self, base: nn.Module, config: ConvAdapterConfig, path: str, pool: Pool) -> None:
        super().__init__()
        width, size = config.width, config.bottleneck
        self.scaling = config.scaling
        self.down = nn.Linear(width, size)
        self.convolution: nn.Conv1d | nn.Conv2d
        if config.num_dimensions == 2:
            self.convolution = nn.Conv2d(size, size, 3, padding=1)
        else:
            self.convolution = nn.Conv1d(size, size, 3, padding=1)
        self.up = nn.Linear(size, width)
        nn.init.xavier_uniform_(self.down.weight)
        zeros = (self.down.bias, self.convolution.bias, self.up.weight, self.up.bias)
        for zero in (*zeros, self.convolution.weight):
            assert zero is not None
            nn.init.zeros_(zero)
        with torch.no_grad():
            self.centre().copy_(torch.eye(size))

    def centre(self) -> Tensor:
        """Return the ``size x size`` middle of the kernel."""
        weight = self.convolution.weight
        return weight[..., 1, 1] if weight.ndim == 4 else weight[..., 1]

    def convolve(self, x: Tensor) -> Tensor:
        """Convolve ``batch x tokens x size`` over the patches, and the tokens before them."""
        if isinstance(self.convolution, nn.Conv1d):
            row: Tensor = self.convolution(x.transpose(1, 2))
            return row.transpose(1, 2)
        side = math.isqrt(x.shape[1])
        others, patches = x[:, : x.shape[1] - side * side], x[:, x.shape[1] - side * side :]
        grid = patches.transpose(1, 2).reshape(len(x), -1, side, side)
        convolved: Tensor = self.convolution(grid)
        alone = F.linear(others, self.centre(), self.convolution.bias)
        return torch.cat([alone, convolved.flatten(2).transpose(1, 2)], dim=1)

    def forward(self, output: Tensor, block_input: Tensor) -> Tensor:
        """Return the output plus the update that the block's input gives."""
        update: Tensor = self.up(F.gelu(self.convolve(F.gelu(self.down(block_input)))))
        return output + self.scaling * update


register_method("autopeft_conv_adapter", ConvAdapterConfig, ConvAdapter)
