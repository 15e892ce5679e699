"""HUT: the Hadamard updated transformation.

Zhang et al. 2024, arXiv 2409.13501: in place of adding an increment, the new weight is a
transformation of the old one, their Hadamard product with what two low-rank matrices make::

    W' = W * (A B),  A: out x rank,  B: rank x in

Start: the first column of ``A`` and the first row of ``B`` are ones, the rest of ``A`` is zero and
the rest of ``B`` drawn, so ``A B`` is one everywhere and ``W'`` is ``W``.

Deviation: the start is ours. HiRA (PEFT's ``hira``) is ``W + W * (A B)`` with a zero start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import nn

from autopeft.workers.modules._framework import MethodConfig, register_method
from autopeft.workers.modules._layers import Pool
from autopeft.workers.modules._weights import WeightPart, shape_of, weight_of

Tensor = torch.Tensor


@dataclass
class HutConfig(MethodConfig):
    """Config of HUT.

    Attributes:
        rank: Columns of ``A`` and rows of ``B``.
    """

    rank: int = field(default=4, metadata={"help": "Rank of the factors."})


class HutPart(WeightPart):
    """Two low-rank factors of one weight's multiplier."""

    def __init__(self, base: nn.Module, config: HutConfig, path: str, pool: Pool) -> None:
        super().__init__(base)
        out_features, in_features = shape_of(base)
        drawn = torch.empty(config.rank, in_features)
        nn.init.kaiming_uniform_(drawn, a=math.sqrt(5))
        drawn[0] = 1.0
        start = torch.zeros(out_features, config.rank)
        start[:, 0] = 1.0
        self.A = nn.Parameter(start)
        self.B = nn.Parameter(drawn)

    def change(self, *learned: Tensor) -> Tensor:
        """Return ``W * (A B - 1)``."""
        A, B = learned
        return weight_of(self.__dict__["layer"]) * (A @ B - 1)


register_method("autopeft_hut", HutConfig, HutPart)
