"""Lottery-ticket sparse fine-tuning (LT-SFT).

Ansell et al. 2022, arXiv 2110.07560, section 3. Phase 1: all numbers train. Then the ``k`` that
moved farthest from where they started form the mask, everything goes back to the start, and in
phase 2 only they train.

Deviations: the ``k`` largest are taken in each weight and not over all of them; one schedule of the
learning rate spans both phases, and the optimiser's averages of the surviving numbers go on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from autopeft.search_spaces.methods._matrices import num_kept
from autopeft.workers.modules._framework import MethodConfig, parts_of, register_method
from autopeft.workers.modules._layers import Pool
from autopeft.workers.modules._weights import WeightPart, shape_of, start_device
from autopeft.workers.modules.sparse_mask import integers, largest

Tensor = torch.Tensor


@dataclass
class LotteryTicketConfig(MethodConfig):
    """Config of lottery-ticket sparse tuning.

    Attributes:
        density: Part of each weight that differs in the end.
        first_phase: Part of the steps in which everything trains.
    """

    density: float = field(default=0.05, metadata={"help": "Part that differs in the end."})
    first_phase: float = field(default=0.5, metadata={"help": "Part of the steps for phase 1."})


class LotteryTicketPart(WeightPart):
    """The change of one weight, dense at first.

    Shapes:
        values: ``out x in``, the change; zero at the start.
        positions: ``k`` places in the flattened weight; meaningless before phase 2.
        phase: 1 or 2.
    """

    positions: Tensor
    phase: Tensor

    def __init__(self, base: nn.Module, config: LotteryTicketConfig, path: str, pool: Pool) -> None:
        super().__init__(base)
        shape = shape_of(base)
        size = torch.Size(shape).numel()
        self.first_phase = config.first_phase
        device = start_device(base)
        self.values = nn.Parameter(torch.zeros(shape, device=device))
        positions = torch.zeros(num_kept(size, config.density), dtype=torch.int64, device=device)
        self.register_buffer("positions", integers(positions, size))
        self.register_buffer("phase", torch.ones((), dtype=torch.int64, device=device))

    def change(self, *learned: Tensor) -> Tensor:
        """Return the change itself."""
        return learned[0]

    @torch.no_grad()
    def rewind(self) -> None:
        """Choose the mask and go back to the start: phase 2 begins."""
        self.positions.copy_(largest(self.values.abs().flatten(), len(self.positions)))
        self.values.zero_()
        self.phase.fill_(2)

    @torch.no_grad()
    def enforce(self) -> None:
        """Put every number outside the mask back to the start."""
        flat = self.values.view(-1)
        kept = flat[self.positions.long()]
        flat.zero_()
        flat[self.positions.long()] = kept


def last_step_of_first_phase(first_phase: float, num_steps: int) -> int:
    """Return the step after which the mask is chosen; 0 where there is no room for phase 2.

    At least two: AdamW's first step moves every number alike.
    """
    return min(max(2, round(first_phase * num_steps)), num_steps - 1)


def on_step(model: nn.Module, step: int, num_steps: int) -> None:
    """Begin phase 2 when it is time, and keep to the mask from then on."""
    for _, part in parts_of(model, LotteryTicketPart):
        last = last_step_of_first_phase(part.first_phase, num_steps)
        if step == last:
            part.rewind()
        elif step > last > 0:
            part.enforce()


register_method("autopeft_lottery_ticket", LotteryTicketConfig, LotteryTicketPart)
