"""A sparse change with fixed positions: values and positions, never a dense mask.

The change of a weight is ``scatter(values, positions)``. As in Guo et al. 2021 (arXiv 2012.07463,
equation 1, ``theta = theta_0 + delta`` with a sparse ``delta``), except that the positions are
given beforehand: drawn, the largest by magnitude, or read from a file. In the backward pass the
dense gradient exists for one layer at a time and is read at the positions only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from autopeft.search_spaces.methods._matrices import num_kept
from autopeft.workers.modules._framework import MethodConfig, register_method
from autopeft.workers.modules._layers import Pool
from autopeft.workers.modules._weights import WeightPart, shape_of, start_device, weight_of

Tensor = torch.Tensor


@dataclass
class SparseMaskConfig(MethodConfig):
    """Config of a given sparse mask.

    Attributes:
        density: Part of each weight that trains.
        selection: ``random`` or ``magnitude``.
        mask_file: Safetensors file with the positions of each layer under its path: whole
            numbers into the flattened ``out x in`` weight, each once. Overrides the two above.
    """

    density: float = field(default=0.01, metadata={"help": "Part of each weight that trains."})
    selection: str = field(default="random", metadata={"help": "random or magnitude."})
    mask_file: str | None = field(default=None, metadata={"help": "File with the positions."})


class SparsePart(WeightPart):
    """Values at fixed positions of one weight; zero at the start.

    Shapes:
        values: ``k``, what trains.
        positions: ``k``, ascending places in the flattened ``out x in`` weight.
    """

    positions: Tensor

    def __init__(self, base: nn.Module, positions: Tensor) -> None:
        super().__init__(base)
        self.shape = shape_of(base)
        self.values = nn.Parameter(torch.zeros(positions.shape))
        self.register_buffer("positions", positions)

    def change(self, *learned: Tensor) -> Tensor:
        """Return the dense matrix that has the values at the positions."""
        return scattered(learned[0], self.positions, self.shape)


class SparseMaskPart(SparsePart):
    """A sparse part whose positions its config chooses."""

    def __init__(self, base: nn.Module, config: SparseMaskConfig, path: str, pool: Pool) -> None:
        super().__init__(base, _chosen(base, config, path))


def scattered(values: Tensor, positions: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the tensor of ``shape`` that is zero but for ``values`` at flat ``positions``."""
    size = torch.Size(shape).numel()
    dense = values.new_zeros(size).index_put((positions.long(),), values)
    return dense.view(shape)


def drawn_positions(size: int, count: int) -> Tensor:
    """Draw ``count`` of ``size`` places without replacement, ascending.

    Memory grows with ``count`` while it is a small part of ``size``.
    """
    if 2 * count >= size:
        return integers(torch.randperm(size)[:count].sort().values, size)
    found = torch.unique(torch.randint(size, (count,)))
    while len(found) < count:
        more = torch.randint(size, (2 * (count - len(found)),))
        found = torch.unique(torch.cat([found, more]))
    return integers(found[torch.randperm(len(found))[:count]].sort().values, size)


def drawn_for(base: nn.Module, count: int) -> Tensor:
    """Draw ``count`` places in a layer's weight; of a model of shapes alone, none in particular."""
    size = torch.Size(shape_of(base)).numel()
    if start_device(base) == "meta":
        return integers(torch.empty(count, dtype=torch.int64, device="meta"), size)
    return drawn_positions(size, count)


def largest(scores: Tensor, count: int) -> Tensor:
    """Return the places of the ``count`` largest of flat ``scores``, ascending."""
    return integers(scores.topk(count, sorted=False).indices.sort().values, scores.numel())


def integers(positions: Tensor, size: int) -> Tensor:
    """Return positions below ``size`` as the smallest integers that hold them."""
    return positions.to(torch.int32 if size <= torch.iinfo(torch.int32).max else torch.int64)


def _chosen(base: nn.Module, config: SparseMaskConfig, path: str) -> Tensor:
    size = torch.Size(shape_of(base)).numel()
    if config.mask_file is not None:
        return _read(Path(config.mask_file), path, size)
    count = num_kept(size, config.density)
    if config.selection == "random":
        return drawn_for(base, count)
    if config.selection == "magnitude":
        return largest(weight_of(base).float().abs().flatten(), count)
    raise ValueError(f"selection is {config.selection!r}, expected random or magnitude")


def _read(file: Path, path: str, size: int) -> Tensor:
    masks = _masks(file)
    if path not in masks:
        raise ValueError(f"{file} holds no mask for {path}, but for {', '.join(list(masks)[:3])}")
    positions = masks[path]
    if positions.numel() == 0 or torch.unique(positions).numel() != positions.numel():
        raise ValueError(f"{file}: {path} needs at least one position, each once")
    if positions.is_floating_point() or int(positions.min()) < 0 or int(positions.max()) >= size:
        raise ValueError(f"{file}: {path} needs whole numbers from 0 to {size - 1}")
    return integers(positions.flatten().sort().values, size)


@lru_cache(maxsize=1)
def _masks(file: Path) -> dict[str, Tensor]:
    with safe_open(file, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


register_method("autopeft_sparse_mask", SparseMaskConfig, SparseMaskPart)
