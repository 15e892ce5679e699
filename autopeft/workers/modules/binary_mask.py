"""Binary masks: which numbers of a weight to keep.

Zhao et al. 2020, arXiv 2004.12406, section 3.2: a real score ``m`` for each number gives a mask,
and the mask multiplies the frozen weight::

    W' = W * [m >= 0]

The threshold has no useful derivative; the gradient of the mask is passed to the score as it is
(the straight-through estimator; equation 3: ``dL/dm = dL/dW' * W``).

Deviation: scores start uniformly in ``[0, spread)``, so that the mask keeps everything at first
(the paper tries several shares of zeros at the start).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from autopeft.workers.modules._framework import MethodConfig, register_method
from autopeft.workers.modules._layers import Pool
from autopeft.workers.modules._weights import WeightPart, shape_of, start_device, weight_of

Tensor = torch.Tensor


@dataclass
class BinaryMaskConfig(MethodConfig):
    """Config of binary masks.

    Attributes:
        spread: Largest score at the start.
    """

    spread: float = field(default=0.01, metadata={"help": "Largest score at the start."})


class BinaryMaskPart(WeightPart):
    """A score for each number of one weight."""

    def __init__(self, base: nn.Module, config: BinaryMaskConfig, path: str, pool: Pool) -> None:
        super().__init__(base)
        drawn = torch.rand(shape_of(base), device=start_device(base))
        self.scores = nn.Parameter(config.spread * drawn)

    def change(self, *learned: Tensor) -> Tensor:
        """Return ``W * ([m >= 0] - 1)``."""
        mask: Tensor = _Mask.apply(learned[0])  # type: ignore[no-untyped-call]
        return weight_of(self.__dict__["layer"]) * (mask - 1)


class _Mask(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        return (scores >= 0).to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


register_method("autopeft_binary_mask", BinaryMaskConfig, BinaryMaskPart)
