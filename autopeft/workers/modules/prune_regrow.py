"""Sparse fine-tuning that moves its positions (SpIEL-AG).

Ansell et al. 2024, arXiv 2401.16405, section 3 and algorithm 1. Of each weight ``k`` numbers train.
Every so often the ``n`` of them that changed least are dropped, and ``n`` others are grown: those
with the largest accumulated gradient. To hold no dense gradient, the ``k`` inactive numbers with
the largest gradient in the first batch of a window become candidates, and only for them are
gradients added up over the window (5 steps, as in the authors' code). ``n`` falls linearly to zero.

Deviations: the first positions are drawn and not the outcome of a first window; a grown number
takes over the optimiser's averages of the one it replaces, in place of averages made from the
gradients gathered for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from autopeft.search_spaces.methods._matrices import num_kept
from autopeft.workers.modules._framework import MethodConfig, parts_of, register_method
from autopeft.workers.modules._layers import Pool
from autopeft.workers.modules._weights import shape_of
from autopeft.workers.modules.sparse_mask import SparsePart, drawn_for

Tensor = torch.Tensor
WINDOW_STEPS = 5
#: Values of ``PruneRegrowPart.state``; what is larger counts the gradients gathered.
CLOSED, OPEN = 0, 1


@dataclass
class PruneRegrowConfig(MethodConfig):
    """Config of prune and regrow.

    Attributes:
        density: Part of each weight that trains at any time.
        num_updates: How often positions move.
        drop_fraction: Part of the positions that would move at step 0.
    """

    density: float = field(default=0.01, metadata={"help": "Part that trains at any time."})
    num_updates: int = field(default=4, metadata={"help": "How often positions move."})
    drop_fraction: float = field(default=0.2, metadata={"help": "Part that moves at first."})


class PruneRegrowPart(SparsePart):
    """Values at positions that move.

    Shapes:
        candidates: ``k`` inactive places, chosen when a window opens.
        gathered: ``k``, the sum of their gradients since.
        state: Whether a window is open, and how many gradients it has gathered.
    """

    candidates: Tensor
    gathered: Tensor
    state: Tensor

    def __init__(self, base: nn.Module, config: PruneRegrowConfig, path: str, pool: Pool) -> None:
        size = torch.Size(shape_of(base)).numel()
        count = num_kept(size, config.density)
        super().__init__(base, drawn_for(base, count))
        if 2 * count > size:
            raise ValueError(f"{path}: a density of {config.density:g} leaves no candidates")
        self.num_updates, self.drop_fraction = config.num_updates, config.drop_fraction
        self.register_buffer("candidates", torch.zeros_like(self.positions))
        self.register_buffer("gathered", torch.zeros(count))
        self.register_buffer("state", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def observe(self, gradient: Tensor) -> None:
        """Choose candidates by the first gradient of a window, add up theirs from then on."""
        if self.state.is_meta or (state := int(self.state)) == CLOSED:
            return
        flat = gradient.flatten()
        if state == OPEN:
            sizes = flat.abs().index_fill(0, self.positions.long(), -1.0)
            self.candidates.copy_(sizes.topk(len(self.candidates)).indices)
            self.gathered.zero_()
        self.gathered += flat[self.candidates.long()].to(self.gathered.dtype)
        self.state += 1

    @torch.no_grad()
    def move(self, fraction: float) -> None:
        """Drop the smallest ``fraction`` of the values, grow as many, close the window."""
        count = round(fraction * len(self.values)) if int(self.state) > OPEN else 0
        if count:
            dropped = self.values.abs().topk(count, largest=False).indices
            grown = self.gathered.abs().topk(count).indices
            self.positions[dropped] = self.candidates[grown]
            self.values[dropped] = 0.0
        self.state.fill_(CLOSED)


def update_steps(num_updates: int, num_steps: int) -> list[int]:
    """Return the steps after which positions move: evenly spaced, none at the very end."""
    steps = {round(i * num_steps / (num_updates + 1)) for i in range(1, num_updates + 1)}
    return sorted(step for step in steps if 1 < step < num_steps)


def on_step(model: nn.Module, step: int, num_steps: int) -> None:
    """Open a window some steps before each update, and move positions at the update."""
    for _, part in parts_of(model, PruneRegrowPart):
        updates = update_steps(part.num_updates, num_steps)
        if step in updates:
            part.move(part.drop_fraction * (1 - step / num_steps))
        before = max((earlier for earlier in updates if earlier <= step), default=0)
        following = next((later for later in updates if later > step), None)
        if following is not None:
            opens = max(following - WINDOW_STEPS, before, 1)
            if step == opens:
                part.state.fill_(OPEN)


register_method("autopeft_prune_regrow", PruneRegrowConfig, PruneRegrowPart)
