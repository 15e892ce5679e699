"""SSF: scaling and shifting your features (Lian et al. 2022, arXiv 2210.08823, equation 3).

The output y of a linear layer or a normalisation becomes ``gamma * y + beta``, feature by
feature. Merged (equation 4), a linear layer has the weight ``gamma W`` (row by row) and the
bias ``gamma b + beta``; so has a normalisation with weight and bias.

Deviation: the paper draws gamma from a normal around 1 and beta around 0, both with a deviation
of 0.02; here they are 1 and 0, so that the start is the base model itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autopeft.workers.modules._framework import MethodConfig, register_method
from autopeft.workers.modules._layers import Part, Pool, widths_of


@dataclass
class SsfConfig(MethodConfig):
    """Config of SSF: the layers, and nothing else."""


class Ssf(Part):
    """Scale and shift of one layer."""

    def __init__(self, base: nn.Module, config: SsfConfig, path: str, pool: Pool) -> None:
        super().__init__()
        _, width = widths_of(base)
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, base: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Return the scaled and shifted output; features are the last dimension."""
        output: Tensor = base(*args, **kwargs)
        return (output.to(self.scale.dtype) * self.scale + self.shift).to(output.dtype)

    def merged(
        self, base: nn.Module, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return ``gamma W`` and ``gamma b + beta``."""
        if bias is None:
            raise ValueError(f"{type(base).__name__} has no bias that could take up SSF's shift")
        scale = self.scale if weight.ndim == 1 else self.scale[:, None]
        return scale * weight, self.scale * bias + self.shift


register_method("autopeft_ssf", SsfConfig, Ssf)
