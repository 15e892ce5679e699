"""IAPT: prompts that each layer makes from its input.

Zhu et al. 2024, arXiv 2405.18203, section 3: in each layer a small generator reads the hidden
states ``H`` of the input and writes ``l`` soft tokens (four in the paper), which the layer attends
to::

    Z = H W_down,  S = softmax(Q Z^T / sqrt(m)) Z,  P = f(S) W_up

with a bottleneck of ``m``, ``l`` learned queries ``Q`` that pool over the input (padding left out),
and a learned activation: a rational function ``f(x) = (a_0 + ... + a_5 x^5) / (1 + |b_1 x + ... +
b_4 x^4|)`` for each layer, which starts near GELU. The soft tokens pass through the layer's own
projections of keys and values and are prepended to these, as ``layer_prefix`` prepends learned
ones.

Deviations: the generators of different layers share nothing; they read what the attention layer
reads (in models that normalise first: normalised states). The prompts see the whole input, so
this is for tasks that predict nothing inside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import nn
from torch.nn import functional

from autopeft.workers.modules._blocks import InsidePart
from autopeft.workers.modules._framework import MethodConfig, register_method
from autopeft.workers.modules._layers import Pool
from autopeft.workers.modules.layer_prefix import LayerPrefixLayer, LayerPrefixTuner

Tensor = torch.Tensor
NUM_NUMERATOR, NUM_DENOMINATOR = 6, 4


@dataclass
class IaptConfig(MethodConfig):
    """Config of IAPT; ``target_modules`` are the attention layers.

    Attributes:
        num_virtual_tokens: Soft tokens of each layer.
        bottleneck: Width of the generators inside.
        width: Width of the attention layer's input.
        key: Name of the layer that makes the keys, inside the attention layer.
        value: Name of the layer that makes the values.
    """

    num_virtual_tokens: int = field(default=4, metadata={"help": "Soft tokens of each layer."})
    bottleneck: int = field(default=16, metadata={"help": "Width of the generators inside."})
    width: int = field(default=768, metadata={"help": "Width of the input."})
    key: str = field(default="key", metadata={"help": "Name of what makes the keys."})
    value: str = field(default="value", metadata={"help": "Name of what makes the values."})


class IaptPart(InsidePart):
    """The prompt generator of one layer.

    Shapes:
        down: ``m x d``.
        queries: ``l x m``.
        up: ``d x m``.
    """

    #: ``layer_prefix`` has gates, this has none.
    gate = None

    def __init__(self, base: nn.Module, config: IaptConfig, path: str, pool: Pool) -> None:
        super().__init__()
        m, d = config.bottleneck, config.width
        self.names = (config.key, config.value)
        self.down = nn.Parameter(torch.randn(m, d) / math.sqrt(d))
        self.queries = nn.Parameter(torch.randn(config.num_virtual_tokens, m))
        self.up = nn.Parameter(torch.randn(d, m) / math.sqrt(m))
        numerator, denominator = near_gelu()
        self.numerator = nn.Parameter(numerator.clone())
        self.denominator = nn.Parameter(denominator.clone())

    def prompts(self, states: Tensor, is_text: Tensor | None) -> Tensor:
        """Return the soft tokens, ``batch x l x d``.

        Args:
            states: ``batch x tokens x d``, what the attention layer reads.
            is_text: ``batch x tokens``, False at padding; None where there is none.
        """
        short = functional.linear(states, self.down)
        scores = self.queries @ short.transpose(1, 2) / math.sqrt(short.shape[-1])
        if is_text is not None:
            scores = scores.masked_fill(~is_text[:, None], torch.finfo(scores.dtype).min)
        pooled = scores.softmax(dim=-1) @ short
        return functional.linear(rational(pooled, self.numerator, self.denominator), self.up)


class IaptLayer(LayerPrefixLayer):
    """The child of an attention layer: it catches the input that the prompts are made from."""

    def enter(self, x: Tensor) -> None:
        """Keep the input until the attention function runs."""
        self.caught = x

    def prefix(
        self, part: IaptPart, module: nn.Module, key: Tensor, attention_mask: Tensor | None
    ) -> list[Tensor]:
        """Return what the layer's own projections make of the prompts."""
        assert self.caught is not None
        states, self.caught = self.caught.to(part.down.dtype), None
        prompts = part.prompts(states, text_of(attention_mask)).to(key.dtype)
        pair: list[Tensor] = []
        for name in part.names:
            made = module.get_submodule(name)(prompts)
            pair.append(made.unflatten(-1, (key.shape[1], key.shape[3])).transpose(1, 2))
        return pair


def text_of(attention_mask: Tensor | None) -> Tensor | None:
    """Return which tokens the last one may look at, ``batch x tokens``: all but padding.

    Args:
        attention_mask: ``batch x 1 x queries x keys``, boolean or added to scores; or None.
    """
    if attention_mask is None:
        return None
    last = attention_mask[:, 0, -1]
    return last if last.dtype == torch.bool else last > torch.finfo(last.dtype).min / 2


def rational(x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return ``(a_0 + a_1 x + ...) / (1 + |b_1 x + b_2 x^2 + ...|)``."""
    above = sum((a * x**power for power, a in enumerate(numerator)), torch.zeros_like(x))
    below = sum((b * x**power for power, b in enumerate(denominator, 1)), torch.zeros_like(x))
    return above / (1 + below.abs())


@lru_cache(maxsize=1)
def near_gelu() -> tuple[Tensor, Tensor]:
    """Return coefficients of a rational function near GELU on [-3, 3].

    They minimise ``sum (P(x) - gelu(x) (1 + Q(x)))^2`` over 121 points, a linear problem; rounded,
    so that every machine starts alike.
    """
    x = torch.linspace(-3, 3, 121, dtype=torch.float64)
    gelu = functional.gelu(x)
    above = [x**power for power in range(NUM_NUMERATOR)]
    below = [-gelu * x**power for power in range(1, NUM_DENOMINATOR + 1)]
    found = torch.linalg.lstsq(torch.stack(above + below, dim=1), gelu[:, None]).solution
    coefficients = found.flatten().round(decimals=6).float()
    return coefficients[:NUM_NUMERATOR], coefficients[NUM_NUMERATOR:]


register_method(
    "autopeft_iapt",
    IaptConfig,
    IaptPart,
    tuner_class=LayerPrefixTuner,
    layer_class=IaptLayer,
)
