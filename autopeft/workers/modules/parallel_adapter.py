"""Parallel adapters (He et al. 2022, arXiv 2110.04366, table 1, "scaled parallel adapter").

The output h of a block with input x becomes::

    h + s (W_up f(W_down x + b_down) + b_up)

f is ReLU in the paper, and a choice here. The up-projection and the biases start at zero, W_down
as in the paper (as LoRA's A).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from autopeft.workers.modules._blocks import BlockPart
from autopeft.workers.modules._bottleneck import Bottleneck
from autopeft.workers.modules._framework import BlockConfig, register_method
from autopeft.workers.modules._layers import Pool


@dataclass
class ParallelAdapterConfig(BlockConfig):
    """Config of parallel adapters.

    Attributes:
        bottleneck: Width inside the adapter.
        scaling: Constant factor of the update.
        activation: ``relu``, ``gelu``, ``silu`` or ``tanh``.
    """

    bottleneck: int = field(default=48, metadata={"help": "Width inside the adapter."})
    scaling: float = field(default=4.0, metadata={"help": "Constant factor of the update."})

    activation: str = field(default="relu", metadata={"help": "relu, gelu, silu or tanh."})

    #: After serial adapters, which see the block's own output.
    injection_order: ClassVar[int] = 2


class ParallelAdapter(BlockPart):
    """One adapter beside one block."""

    def __init__(
        self, base: nn.Module, config: ParallelAdapterConfig, path: str, pool: Pool
    ) -> None:
        super().__init__()
        self.scaling = config.scaling
        self.adapter = Bottleneck(config.width, config.bottleneck, config.activation)

    def forward(self, output: Tensor, block_input: Tensor) -> Tensor:
        """Return the output plus the scaled update that the block's input gives."""
        update: Tensor = self.adapter(block_input)
        return output + self.scaling * update


register_method("autopeft_parallel_adapter", ParallelAdapterConfig, ParallelAdapter)
