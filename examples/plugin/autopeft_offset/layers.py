"""What is trained: the config that PEFT saves, and the formula."""

from dataclasses import dataclass

import torch

from autopeft.workers.modules import MethodConfig, Part, register_method, widths_of


@dataclass
class OffsetConfig(MethodConfig):
    scale: float = 1.0


class OffsetPart(Part):
    def __init__(self, base, config, path, pool):
        super().__init__()
        self.scale = config.scale
        self.offset = torch.nn.Parameter(torch.zeros(widths_of(base)[1]))

    def forward(self, base, x):
        return base(x) + self.scale * self.offset

    def merged(self, base, weight, bias):
        return weight, bias + self.scale * self.offset


register_method("offset", OffsetConfig, OffsetPart)
