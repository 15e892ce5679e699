"""FLoRA: a Tucker core for weights with any number of axes.

Si et al. 2024, arXiv 2405.14739, section 3: the change of a weight with axes ``I_1 x ... x I_N``
is a core ``G`` of ``J_1 x ... x J_N``, multiplied along each axis by a factor ``A_n`` of
``I_n x J_n``::

    change = s  G x_1 A_1 x_2 A_2 ... x_N A_N

For a linear layer that is ``s A_1 G A_2^T``. The factors are drawn, the core starts at zero. No
``J`` is larger than its axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import nn

from autopeft.workers.modules._framework import MethodConfig, register_method
from autopeft.workers.modules._layers import Pool
from autopeft.workers.modules._weights import WeightPart, shape_of

Tensor = torch.Tensor


@dataclass
class FloraConfig(MethodConfig):
    """Config of FLoRA.

    Attributes:
        rank: Size of the core along each axis, cut to the axis.
        scale: Factor on the change.
    """

    rank: int = field(default=8, metadata={"help": "Size of the core along each axis."})
    scale: float = field(default=1.0, metadata={"help": "Factor on the change."})


class FloraPart(WeightPart):
    """Core and factors of one weight."""

    def __init__(self, base: nn.Module, config: FloraConfig, path: str, pool: Pool) -> None:
        super().__init__(base)
        axes = shape_of(base)
        ranks = [min(config.rank, axis) for axis in axes]
        self.scale = config.scale
        self.core = nn.Parameter(torch.zeros(ranks))
        self.factors = nn.ParameterList()
        for axis, rank in zip(axes, ranks, strict=True):
            # As LoRA's A is drawn: entries of order 1 / sqrt(axis).
            self.factors.append(nn.Parameter(torch.randn(axis, rank) / math.sqrt(axis)))

    def change(self, *learned: Tensor) -> Tensor:
        """Return the core, widened along each axis."""
        core, *factors = learned
        for factor in factors:
            # Take the first axis away, put the widened one at the end: N times, in order.
            core = torch.tensordot(core, factor, dims=([0], [1]))
        return self.scale * core


register_method("autopeft_flora", FloraConfig, FloraPart)
