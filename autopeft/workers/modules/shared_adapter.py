"""Serial adapters that several layers share.

The output h of a block in layer l becomes::

    h + c_l (W_up gelu(W_down h + b_down) + b_up)

with one set of weights for a group of layers and one factor c_l, at first 1, for each block. It
is the prototype network of ProPETL (Zeng, Zhang and Lu 2023, arXiv 2305.17682) with a factor in
place of its binary masks. The up-projection and the biases start at zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from autopeft.workers.modules._blocks import BlockPart
from autopeft.workers.modules._bottleneck import Bottleneck
from autopeft.workers.modules._framework import BlockConfig, register_method
from autopeft.workers.modules._layers import Pool


@dataclass
class SharedAdapterConfig(BlockConfig):
    """Config of shared adapters.

    Attributes:
        bottleneck: Width inside the adapter.
        adapters: Name of each block's adapter, by the path of the block's end.
    """

    bottleneck: int = field(default=48, metadata={"help": "Width inside the adapter."})
    adapters: dict[str, str] = field(
        default_factory=dict, metadata={"help": "Name of the adapter by the end of the block."}
    )


class SharedAdapter(BlockPart):
    """What one block has of a shared adapter."""

    adapter: Bottleneck

    def __init__(self, base: nn.Module, config: SharedAdapterConfig, path: str, pool: Pool) -> None:
        super().__init__()
        name = config.adapters.get(path, "all")
        self.factor = nn.Parameter(torch.ones(1))
        self.share(
            "adapter", pool, name, lambda: Bottleneck(config.width, config.bottleneck, "gelu")
        )

    def forward(self, output: Tensor, block_input: Tensor) -> Tensor:
        """Return the output plus the scaled update; ``block_input`` is not used."""
        update: Tensor = self.adapter(output)
        return output + self.factor * update


register_method("autopeft_shared_adapter", SharedAdapterConfig, SharedAdapter)
