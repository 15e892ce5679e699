"""BitFit: an offset of every bias vector, normalisations' too.

Ben Zaken et al. 2022, arXiv 2106.10199, section 3: of each layer ``W x + b`` only ``b`` trains.
Here ``b`` stays and an offset of it trains, which starts at zero: the same function and, without
weight decay, the same training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autopeft.workers.modules._framework import MethodConfig, register_method
from autopeft.workers.modules._layers import Part, Pool

Tensor = torch.Tensor


@dataclass
class BiasConfig(MethodConfig):
    """Config of bias-only tuning."""


class BiasPart(Part):
    """An offset of the output of one linear layer or normalisation."""

    def __init__(self, base: nn.Module, config: BiasConfig, path: str, pool: Pool) -> None:
        super().__init__()
        bias: Any = getattr(base, "bias", None)
        if bias is None:
            raise ValueError(f"{path} has no bias to train")
        self.offset = nn.Parameter(torch.zeros(bias.shape))

    def forward(self, base: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Return ``base(x) + offset`` in the dtype of the layer."""
        output: Tensor = base(*args, **kwargs)
        return output + self.offset.to(output.dtype)

    def merged(
        self, base: nn.Module, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the weight as it is and the bias with its offset."""
        assert bias is not None
        return weight, bias + self.offset


register_method("autopeft_bias", BiasConfig, BiasPart)
