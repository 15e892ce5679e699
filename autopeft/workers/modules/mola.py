"""MoLA: LoRA experts with a number of experts for each layer (Gao et al. 2024, arXiv 2402.08562).

The output of a linear layer with input x becomes (equations 3 to 5)::

    W x + b + s sum_i g_i(x) B_i A_i x

where the router p(x) = softmax(R x) has its K largest entries kept and divided by their sum to
give g(x), and the rest are zero. As in the paper, training adds a load-balancing loss (that of
Switch Transformers) with the coefficient 1e-3: ``E sum_i f_i mean(p_i)`` with f_i the share of
choices that fell on expert i.

The loss is added where the layer runs, by an operation whose backward pass hands the loss its
gradient of 1; so any training loop trains it, and no loop sees its value. Deviations: padding
counts as tokens; under gradient accumulation the coefficient counts once for each part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from autopeft.workers.modules._framework import MethodConfig, register_method
from autopeft.workers.modules._layers import AdditivePart, Pool, widths_of

BALANCE = 1e-3


@dataclass
class MolaConfig(MethodConfig):
    """Config of MoLA.

    Attributes:
        rank: Rank of each expert.
        scaling: Factor of the update.
        top_k: Experts each token goes to.
        experts: Number of experts by the path of the layer.
    """

    rank: int = field(default=8, metadata={"help": "Rank of each expert."})
    scaling: float = field(default=2.0, metadata={"help": "Factor of the update."})
    top_k: int = field(default=2, metadata={"help": "Experts each token goes to."})
    experts: dict[str, int] = field(
        default_factory=dict, metadata={"help": "Number of experts by the path of the layer."}
    )


class Mola(AdditivePart):
    """The experts of one layer, their matrices stacked: ``A`` is ``experts * rank x inputs``."""

    def __init__(self, base: nn.Module, config: MolaConfig, path: str, pool: Pool) -> None:
        super().__init__()
        inputs, outputs = widths_of(base)
        self.experts, self.rank = config.experts.get(path, config.top_k), config.rank
        self.top_k, self.scaling = config.top_k, config.scaling
        self.router = nn.Linear(inputs, self.experts, bias=False)
        self.lora_A = nn.Linear(inputs, self.experts * self.rank, bias=False)
        self.lora_B = nn.Linear(self.experts * self.rank, outputs, bias=False)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B.weight)

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities and gates, ``... x experts``."""
        probabilities = torch.softmax(self.router(x), dim=-1)
        kept, chosen = probabilities.topk(self.top_k, dim=-1)
        kept = kept / kept.sum(dim=-1, keepdim=True)
        return probabilities, torch.zeros_like(probabilities).scatter(-1, chosen, kept)

    def delta(self, x: Tensor) -> Tensor:
        """Return the scaled sum over the experts; in training, attach the balancing loss."""
        probabilities, gates = self.route(x)
        inner: Tensor = self.lora_A(x)
        inner = inner.reshape(*x.shape[:-1], self.experts, self.rank) * gates.unsqueeze(-1)
        update: Tensor = self.scaling * self.lora_B(inner.flatten(-2))
        if self.training and torch.is_grad_enabled():
            update = attach(update, BALANCE * balance(probabilities, gates))
        return update


def attach(value: Tensor, loss: Tensor) -> Tensor:
    """Return the value; whoever trains with it trains with the loss added."""
    attached: Tensor = _Attached.apply(value, loss)  # type: ignore[no-untyped-call]
    return attached


def balance(probabilities: Tensor, gates: Tensor) -> Tensor:
    """Return the load-balancing loss, at least 1, and 1 where all experts are used alike.

    Args:
        probabilities: ``... x experts``, differentiable.
        gates: ``... x experts``; only which of them are above zero counts.
    """
    experts = probabilities.shape[-1]
    chosen = (gates.detach() > 0).to(probabilities.dtype).reshape(-1, experts)
    shares = chosen.mean(dim=0) / chosen.sum(dim=-1).mean()
    return experts * (shares * probabilities.reshape(-1, experts).mean(dim=0)).sum()


class _Attached(torch.autograd.Function):
    """Hand a value through; in the backward pass give the loss a gradient of 1."""

    @staticmethod
    def forward(context: Any, value: Tensor, loss: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, torch.ones((), dtype=gradient.dtype, device=gradient.device)


register_method("autopeft_mola", MolaConfig, Mola)
