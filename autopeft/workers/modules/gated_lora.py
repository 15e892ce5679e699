"""Gated LoRA, as in UniPELT (Mao et al. 2022, arXiv 2110.07577, section 3.2).

The output of a linear layer with input x becomes::

    W x + b + s g(x) B A x,   g(x) = sigmoid(w x + c)

Deviations: one gate a token and adapted layer, where the authors' code takes the mean over a
sequence (a language model would look ahead) and one gate for all projections of an attention
layer; the constant s stays beside the gate, since it sets how far a step moves the update.
A starts as in LoRA, B, w and c at zero: the start is the base model, the gate at one half.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor, nn

from autopeft.workers.modules._bottleneck import Gate
from autopeft.workers.modules._framework import MethodConfig, register_method
from autopeft.workers.modules._layers import AdditivePart, Pool, widths_of


@dataclass
class GatedLoraConfig(MethodConfig):
    """Config of gated LoRA.

    Attributes:
        rank: Rank of the update.
        scaling: Its constant factor.
    """

    rank: int = field(default=8, metadata={"help": "Rank of the update."})
    scaling: float = field(default=2.0, metadata={"help": "Constant factor of the update."})


class GatedLora(AdditivePart):
    """Update and gate of one layer."""

    def __init__(self, base: nn.Module, config: GatedLoraConfig, path: str, pool: Pool) -> None:
        super().__init__()
        inputs, outputs = widths_of(base)
        self.scaling = config.scaling
        self.lora_A = nn.Linear(inputs, config.rank, bias=False)
        self.lora_B = nn.Linear(config.rank, outputs, bias=False)
        self.gate = Gate(inputs)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B.weight)

    def delta(self, x: Tensor) -> Tensor:
        """Return ``s g(x) B A x``."""
        update: Tensor = self.lora_B(self.lora_A(x))
        gate: Tensor = self.gate(x)
        return self.scaling * gate * update


register_method("autopeft_gated_lora", GatedLoraConfig, GatedLora)
