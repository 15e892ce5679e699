"""Compacter (Karimi Mahabadi, Henderson and Ruder 2021, arXiv 2106.04647).

A serial adapter ``h + W_up gelu(W_down h + b_down) + b_up`` whose matrices are sums of Kronecker
products with factors of rank 1 (equations 4 to 6)::

    W = sum_i A_i (x) (s_i t_i^T),   A_i: n x n,   s_i: k/n x 1,   t_i: 1 x d/n

The n matrices A_i are shared by both matrices of every adapter in the model.

Deviation: the authors draw all factors at random; here the t_i of the up-projection start at zero,
so that the start is the base model itself, and A_i has a deviation of 0.01.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autopeft.workers.modules._blocks import BlockPart
from autopeft.workers.modules._framework import BlockConfig, register_method
from autopeft.workers.modules._layers import Pool


@dataclass
class CompacterConfig(BlockConfig):
    """Config of Compacter.

    Attributes:
        bottleneck: Width inside the adapter, a multiple of ``division``.
        division: n, the number of terms.
    """

    bottleneck: int = field(default=24, metadata={"help": "Width inside the adapter."})
    division: int = field(default=4, metadata={"help": "Number of terms, n."})


class Rule(nn.Module):
    """The matrices A_i, ``n x n x n``."""

    def __init__(self, division: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(division, division, division) * 0.01)


class KroneckerLinear(nn.Module):
    """``x W + b`` with W, ``inputs x outputs``, as above; the rule is given with each call."""

    def __init__(self, inputs: int, outputs: int, division: int, *, zero: bool) -> None:
        super().__init__()
        if inputs % division or outputs % division:
            raise ValueError(f"{inputs} x {outputs} cannot be divided by n = {division}")
        rows, columns = inputs // division, outputs // division
        left, right = (division, rows, 1), (division, 1, columns)
        # Glorot's deviation for each rank-1 factor pair, as in the authors' code.
        self.left = nn.Parameter(torch.randn(left) * math.sqrt(2 / (rows + 1)))
        deviation = 0.0 if zero else math.sqrt(2 / (columns + 1))
        self.right = nn.Parameter(torch.randn(right) * deviation)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def weight(self, rule: Tensor) -> Tensor:
        """Return W, ``inputs x outputs``."""
        inner = self.left @ self.right
        product = torch.einsum("nij,nkl->ikjl", rule, inner)
        return product.reshape(rule.shape[1] * inner.shape[1], rule.shape[2] * inner.shape[2])

    def forward(self, x: Tensor, rule: Tensor) -> Tensor:
        """Map ``... x inputs`` to ``... x outputs``."""
        return F.linear(x, self.weight(rule).T, self.bias)


class Compacter(BlockPart):
    """One adapter after one block."""

    rule: Rule

    def __init__(self, base: nn.Module, config: CompacterConfig, path: str, pool: Pool) -> None:
        super().__init__()
        division = config.division
        self.share("rule", pool, "rule", lambda: Rule(division))
        self.down = KroneckerLinear(config.width, config.bottleneck, division, zero=False)
        self.up = KroneckerLinear(config.bottleneck, config.width, division, zero=True)

    def forward(self, output: Tensor, block_input: Tensor) -> Tensor:
        """Return the output plus its adapter's update; ``block_input`` is not used."""
        rule = self.rule.weight
        update: Tensor = self.up(F.gelu(self.down(output, rule)), rule)
        return output + update


register_method("autopeft_compacter", CompacterConfig, Compacter)
