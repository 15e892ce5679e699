"""Two methods as an outside package would write them, one around layers and one on blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autopeft.workers.modules import (
    BlockConfig,
    BlockPart,
    MethodConfig,
    Part,
    Pool,
    register_method,
    widths_of,
)


@dataclass
class OffsetConfig(MethodConfig):
    """Offset of the output, times a constant."""

    scale: float = 2.0


class OffsetPart(Part):
    def __init__(self, base: nn.Module, config: OffsetConfig, path: str, pool: Pool) -> None:
        super().__init__()
        self.scale = config.scale
        self.path = path
        self.offset = nn.Parameter(torch.randn(widths_of(base)[1]))

    def forward(self, base: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        output: Tensor = base(x, *args, **kwargs)
        return output + (self.scale * self.offset).to(output.dtype)

    def merged(
        self, base: nn.Module, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        offset = self.scale * self.offset
        return weight, offset if bias is None else bias + offset


@dataclass
class MixConfig(BlockConfig):
    """Block output plus a shared matrix times the block's input."""


class MixPart(BlockPart):
    mix: nn.Linear

    def __init__(self, base: nn.Module, config: MixConfig, path: str, pool: Pool) -> None:
        super().__init__()
        width = config.width
        self.factor = nn.Parameter(torch.ones(1))
        self.share("mix", pool, "mix", lambda: nn.Linear(width, width, bias=False))

    def forward(self, output: Tensor, block_input: Tensor) -> Tensor:
        mixed: Tensor = self.mix(block_input)
        return output + self.factor * mixed


OffsetModel = register_method("toy_offset", OffsetConfig, OffsetPart)
MixModel = register_method("toy_mix", MixConfig, MixPart)
