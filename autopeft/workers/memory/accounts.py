"""What a method adds to the memory of a training step, by stack of layers and source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from autopeft.search_spaces.configuration import Module
from autopeft.workers.memory.growth import Growth, Place, Source

OUTSIDE: Place = (-1, "")
#: All of a stack's first layer, where a method stands on every layer or on none.
LOWEST: Source = "(lowest)"


class Reach(Enum):
    """Which layers gradients flow through on account of a method.

    ``CARRYING``: from the lowest layer that carries it; ``EVERYTHING``: all of them;
    ``NOTHING``: none.
    """

    CARRYING = "carrying"
    EVERYTHING = "everything"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShare:
    """What one source of one method saves in a layer.

    Attributes:
        low: Storages of the layer's flow, where it is the lowest layer that trains.
        extra: Storages besides the flow; what methods share has the same label.
        low_bytes: Bytes of the layer's flow that there are at least in the lowest layer.
    """

    low: Mapping[Any, int] = field(default_factory=dict)
    extra: Mapping[Any, int] = field(default_factory=dict)
    low_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What one variant of a method adds.

    Attributes:
        shares: By stack and source.
        outside: Bytes saved outside the layers.
        resident: Frozen bytes it brings, by place.
        growth: What the numeric settings add.
        subset_names: Sources that a module switches on by naming them.
        reach: Which layers gradients flow through.
        is_approximate: Whether it could not be measured.
    """

    shares: Mapping[Place, LayerShare]
    outside: int
    resident: Mapping[Place, float]
    growth: Growth
    subset_names: frozenset[str]
    reach: Reach = Reach.CARRYING
    is_approximate: bool = False

    def sources(self, module: Module, stack: int) -> tuple[Source, ...]:
        """Return the sources of a stack that a module trains."""
        named = {name for _, value in module.settings if isinstance(value, tuple) for name in value}
        return tuple(
            source
            for place, source in self.shares
            if place == stack and (source not in self.subset_names or source in named)
        )
