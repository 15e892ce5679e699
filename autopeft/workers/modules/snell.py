"""SNELL: kernelised low rank with competition for sparsity.

Shen et al. 2024, arXiv 2411.01800, section 3. Each row ``i`` and column ``j`` of a weight has two
short vectors, and the change of the weight is a kernel of them (section 3.2, the distance kernel
of the authors' experiments)::

    D[i, j] = s (|b1[i] - a1[j]| - |b2[i] - a2[j]|)

whose rank is not bounded by theirs. Then the numbers of one matrix compete (section 3.3): with
``t`` the quantile of ``|D|`` at the wanted sparsity, taken as a constant, ``D`` is shrunk by ``t``
towards zero, so that exactly the numbers above it are left and no positions are stored.

Deviations: the authors' code multiplies the numbers that are left by their own size in place of
shrinking them; ``s`` is 0.1 as in their code; dropped paths are left out.
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
SCALE = 0.1


@dataclass
class SnellConfig(MethodConfig):
    """Config of SNELL.

    Attributes:
        rank: Numbers for each row and column, even.
        sparsity: Part of each weight that does not change, in [0, 1).
    """

    rank: int = field(default=8, metadata={"help": "Numbers for each row and column."})
    sparsity: float = field(default=0.9, metadata={"help": "Part that does not change."})


class SnellPart(WeightPart):
    """Two vectors for each row and column of one weight.

    Shapes:
        rows: ``2 x out x rank/2``.
        columns: ``2 x in x rank/2``.
    """

    def __init__(self, base: nn.Module, config: SnellConfig, path: str, pool: Pool) -> None:
        super().__init__(base)
        if config.rank < 2 or config.rank % 2:
            raise ValueError(f"the rank of SNELL is even, got {config.rank}")
        out_features, in_features = shape_of(base)
        self.sparsity = config.sparsity
        self.rows = nn.Parameter(torch.empty(2, out_features, config.rank // 2))
        self.columns = nn.Parameter(torch.empty(2, in_features, config.rank // 2))
        for vectors in (self.rows, self.columns):
            nn.init.kaiming_uniform_(vectors, a=math.sqrt(5))

    def change(self, *learned: Tensor) -> Tensor:
        """Return the shrunken kernel matrix."""
        rows, columns = learned
        first, second = torch.cdist(rows, columns)
        dense: Tensor = SCALE * (first - second)
        if self.sparsity == 0:
            return dense
        sizes = dense.detach().abs()
        threshold = sizes.flatten().kthvalue(_num_dropped(sizes.numel(), self.sparsity)).values
        shrunken: Tensor = dense.sign() * (dense.abs() - threshold).relu()
        return shrunken


def _num_dropped(size: int, sparsity: float) -> int:
    return min(size - 1, max(1, round(sparsity * size)))


register_method("autopeft_snell", SnellConfig, SnellPart)
