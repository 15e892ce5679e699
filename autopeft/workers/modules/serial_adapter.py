"""Serial adapters (Houlsby et al. 2019, arXiv 1902.00751, figure 2).

The output h of a block becomes::

    h + W_up f(W_down h + b_down) + b_up

before it is added to the residual stream. After both blocks of a layer it is Houlsby's
placement, after the feed-forward block alone Pfeiffer's (arXiv 2005.00247).

Deviations: the up-projection starts at exactly zero, where the paper draws from a normal of
deviation 0.01 cut at two deviations, so that the start is the base model itself. The layer
normalisations of the base stay frozen (the paper trains them); they are a method of their own.

Gated, it is UniPELT's (arXiv 2110.07577, section 3.2)::

    h + g(h) (W_up f(W_down h + b_down) + b_up),   g(h) = sigmoid(w h + b)

with one gate a token. The authors' code takes the mean of the gates over a sequence, which
would let a language model look ahead. w and b start at 0, the gate at one half.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from autopeft.workers.modules._blocks import BlockPart
from autopeft.workers.modules._bottleneck import Bottleneck, Gate
from autopeft.workers.modules._framework import BlockConfig, register_method
from autopeft.workers.modules._layers import Pool


@dataclass
class SerialAdapterConfig(BlockConfig):
    """Config of serial adapters.

    Attributes:
        bottleneck: Width inside the adapter.
        activation: ``relu``, ``gelu``, ``silu`` or ``tanh``.
        gated: Whether a gate scales the update.
    """

    bottleneck: int = field(default=48, metadata={"help": "Width inside the adapter."})
    activation: str = field(default="relu", metadata={"help": "relu, gelu, silu or tanh."})
    gated: bool = field(default=False, metadata={"help": "Scale the update by a gate."})


class SerialAdapter(BlockPart):
    """One adapter after one block."""

    def __init__(self, base: nn.Module, config: SerialAdapterConfig, path: str, pool: Pool) -> None:
        super().__init__()
        self.adapter = Bottleneck(config.width, config.bottleneck, config.activation)
        self.gate = Gate(config.width) if config.gated else None

    def forward(self, output: Tensor, block_input: Tensor) -> Tensor:
        """Return the output plus its adapter's update; ``block_input`` is not used."""
        update: Tensor = self.adapter(output)
        if self.gate is not None:
            update = self.gate(output) * update
        return output + update


register_method("autopeft_serial_adapter", SerialAdapterConfig, SerialAdapter)
