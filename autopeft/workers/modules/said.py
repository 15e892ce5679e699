"""SAID: structure-aware intrinsic dimension.

Aghajanyan et al. 2021, arXiv 2012.13255, section 3: one vector ``v`` of ``d`` numbers trains for
the whole model, and each weight changes by its own fixed random projection of it, times a trained
scale (the structure-aware form, equation 3)::

    W_i' = W_i + s_i P_i(v)

``P`` is the Fastfood transform (Le, Sarlos and Smola 2013, equation 7): blocks of ``H G Q H B``
with Walsh-Hadamard matrices ``H``, random signs ``B``, permutations ``Q`` and normal numbers ``G``,
as many as it takes to fill the weight, scaled so that ``P`` keeps lengths on average. It costs
``O(n log d)`` for a weight of ``n`` numbers. Signs, permutations and normal numbers follow from the
path of the layer and ``seed``: they are drawn again wherever the adapter is loaded and never saved.

Deviation: the paper cuts the scales from the ``d`` numbers, here they come on top.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field

import torch
from torch import nn

from autopeft.workers.modules._framework import MethodConfig, register_method
from autopeft.workers.modules._layers import Pool
from autopeft.workers.modules._weights import WeightPart, shape_of, start_device

Tensor = torch.Tensor


@dataclass
class SaidConfig(MethodConfig):
    """Config of SAID.

    Attributes:
        dimension: Numbers that train for all layers together.
        seed: Seed of the projections.
    """

    dimension: int = field(default=1024, metadata={"help": "Numbers that train."})
    seed: int = field(default=0, metadata={"help": "Seed of the projections."})


class Vector(nn.Module):
    """The vector that trains, zero at the start."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(dimension))


class SaidPart(WeightPart):
    """The projection and the scale of one weight.

    Shapes, with ``n`` the next power of two from ``d`` and ``m`` blocks:
        signs: ``m x n`` of -1 and 1.
        order: ``m x n``, a permutation in each row.
        normal: ``m x n``.
    """

    vector: Vector
    signs: Tensor
    order: Tensor
    normal: Tensor

    def __init__(self, base: nn.Module, config: SaidConfig, path: str, pool: Pool) -> None:
        super().__init__(base)
        self.share("vector", pool, "vector", lambda: Vector(config.dimension))
        self.scale = nn.Parameter(torch.ones(1))
        self.shape = shape_of(base)
        block = 1 << max(0, config.dimension - 1).bit_length()
        blocks = math.ceil(torch.Size(self.shape).numel() / block)
        device = start_device(base)
        generator = None
        if device == "cpu":
            generator = torch.Generator().manual_seed(zlib.crc32(f"{config.seed}/{path}".encode()))
        size = (blocks, block)
        signs = torch.randint(2, size, generator=generator, dtype=torch.int8, device=device)
        order = torch.rand(size, generator=generator, device=device).argsort(dim=1)
        normal = torch.randn(size, generator=generator, device=device)
        self.register_buffer("signs", 2 * signs - 1, persistent=False)
        self.register_buffer("order", order.to(torch.int32), persistent=False)
        self.register_buffer("normal", normal, persistent=False)

    def learned(self) -> tuple[Tensor, ...]:
        """Return the shared vector and this weight's scale."""
        return self.vector.values, self.scale

    def change(self, *learned: Tensor) -> Tensor:
        """Return the scaled projection of the vector."""
        vector, scale = learned
        blocks, block = self.normal.shape
        padded = torch.nn.functional.pad(vector, (0, block - len(vector)))
        spread = walsh_hadamard(padded * self.signs).gather(1, self.order.long())
        mixed = walsh_hadamard(spread * self.normal) / (block * math.sqrt(blocks))
        size = torch.Size(self.shape).numel()
        return scale * mixed.flatten()[:size].view(self.shape)


def walsh_hadamard(x: Tensor) -> Tensor:
    """Return ``x H`` over the last axis, whose length is a power of two; ``H`` has entries of 1."""
    length = x.shape[-1]
    half = 1
    while half < length:
        pairs = x.reshape(*x.shape[:-1], length // (2 * half), 2, half)
        upper, lower = pairs.unbind(-2)
        x = torch.stack([upper + lower, upper - lower], dim=-2).reshape(x.shape)
        half *= 2
    return x


register_method("autopeft_said", SaidConfig, SaidPart)
