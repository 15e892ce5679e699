"""What a method adds to the memory of a training step, by stack of layers and source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from autopeft.search_spaces.configuration import Module
from autopeft.workers.memory.growth import Growth, Place, Source

OUTSIDE: Place = (-1, "")
#: Where the worst moments of a layer count, in place of a source: of the lowest that gradients
#: reach, and of any above it.
WORST_LOWEST: Source = "(worst of the lowest)"
WORST: Source = "(worst)"
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
        excess: What the worst moment of a layer's computation adds to what that layer and those
            below it keep, in bytes, by stack and ``WORST`` or ``WORST_LOWEST``; stack -1 is all
            that is outside the layers.
        excess_alone: The same with one of the sites alone, by site.
        entry: What it saves of what the first layer takes in, in bytes; that is there anyway.
        state_share: Bytes of optimiser state for each byte that trains.
        step_bytes: The optimiser's temporaries where it updates one parameter at a time.
        is_approximate: Whether it could not be measured.
    """

    shares: Mapping[Place, LayerShare]
    outside: int
    resident: Mapping[Place, float]
    growth: Growth
    subset_names: frozenset[str]
    reach: Reach = Reach.CARRYING
    excess: Mapping[Place, float] = field(default_factory=dict)
    excess_alone: Mapping[Source, Mapping[Place, float]] = field(default_factory=dict)
    entry: int = 0
    state_share: float = 0.0
    step_bytes: int = 0
    is_approximate: bool = False

    def sources(self, module: Module, stack: int) -> tuple[Source, ...]:
        """Return the sources of a stack that a module trains."""
        named = {name for _, value in module.settings if isinstance(value, tuple) for name in value}
        return tuple(
            source
            for place, source in self.shares
            if place == stack and (source not in self.subset_names or source in named)
        )

    def excesses(self, module: Module) -> Iterator[Mapping[Place, float]]:
        """Yield what the sites of a module do to the worst moments, together or each alone."""
        named = {name for _, value in module.settings if isinstance(value, tuple) for name in value}
        alone = [excess for site, excess in self.excess_alone.items() if site in named]
        if not alone or len(alone) == len(self.excess_alone):
            yield self.excess
        else:
            yield from alone
