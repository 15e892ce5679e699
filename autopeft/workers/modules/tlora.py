"""TLoRA: transform plus residual.

Tao et al. 2025, arXiv 2501.08727, section 3: a weight becomes ``W T + R``. Both matrices are tensor
rings: with ``in = I_1 I_2`` and ``out = O_1 O_2``, an entry is the trace of a product of two small
matrices, one chosen by the first digit of row and column and one by the second::

    M[o_1 o_2, i_1 i_2] = trace(C_1[o_1, i_1] C_2[o_2, i_2])

``T`` (``in x in``) starts as the identity: ``C_1[i, i] = I / r`` and ``C_2[i, i] = I``, zero
elsewhere. ``R`` starts at zero: its second core is.

Deviation: two cores for every width, its two factors that lie nearest each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import nn

from autopeft.search_spaces.methods.tlora import two_factors
from autopeft.workers.modules._framework import MethodConfig, register_method
from autopeft.workers.modules._layers import Pool
from autopeft.workers.modules._weights import WeightPart, shape_of, weight_of

Tensor = torch.Tensor


@dataclass
class TloraConfig(MethodConfig):
    """Config of TLoRA.

    Attributes:
        transform_rank: Rank of the transform's tensor ring.
        residual_rank: Rank of the residual's tensor ring.
    """

    transform_rank: int = field(default=2, metadata={"help": "Rank of the transform."})
    residual_rank: int = field(default=2, metadata={"help": "Rank of the residual."})


class TloraPart(WeightPart):
    """Two tensor rings of one weight; cores are ``rows x columns x rank x rank``."""

    def __init__(self, base: nn.Module, config: TloraConfig, path: str, pool: Pool) -> None:
        super().__init__(base)
        out_features, in_features = shape_of(base)
        rows, columns = two_factors(out_features), two_factors(in_features)
        r = config.transform_rank
        identity = [torch.einsum("ij,rs->ijrs", torch.eye(i), torch.eye(r)) for i in columns]
        self.transform_1 = nn.Parameter(identity[0] / r)
        self.transform_2 = nn.Parameter(identity[1])
        q = config.residual_rank
        drawn = torch.randn(rows[0], columns[0], q, q) / (q * math.sqrt(columns[0]))
        self.residual_1 = nn.Parameter(drawn)
        self.residual_2 = nn.Parameter(torch.zeros(rows[1], columns[1], q, q))

    def change(self, *learned: Tensor) -> Tensor:
        """Return ``W (T - 1) + R``."""
        weight = weight_of(self.__dict__["layer"]).to(learned[0].dtype)
        transform, residual = ring(*learned[:2]), ring(*learned[2:])
        return weight @ transform - weight + residual


def ring(first: Tensor, second: Tensor) -> Tensor:
    """Return the matrix of a tensor ring of two cores, each ``rows x columns x r x r``."""
    entries = torch.einsum("acrs,bdsr->abcd", first, second)
    a, b, c, d = entries.shape
    return entries.reshape(a * b, c * d)


register_method("autopeft_tlora", TloraConfig, TloraPart)
