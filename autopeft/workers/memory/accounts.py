"""What a method adds to the memory of a training step, by stack of layers and source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from autopeft.search_spaces.configuration import Setting
from autopeft.workers.memory.growth import Growth, Place, Source

#: The setting that says by how many tokens a method makes the text longer, if it does.
VIRTUAL_TOKENS = "num_virtual_tokens"
OUTSIDE: Place = (-1, "")
#: Where the worst moments of a layer count, in place of a source: going forth and back, in the
#: lowest that gradients reach and in any above it.
FORTH: Source = "(forth)"
BACK: Source = "(back)"
FORTH_LOWEST: Source = "(forth in the lowest)"
BACK_LOWEST: Source = "(back in the lowest)"
WORST_MOMENTS: tuple[Source, ...] = (FORTH, BACK, FORTH_LOWEST, BACK_LOWEST)
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
        from_below: Bytes of what the layer takes in, which the one below it made.
    """

    low: Mapping[Any, int] = field(default_factory=dict)
    extra: Mapping[Any, int] = field(default_factory=dict)
    low_bytes: int = 0
    from_below: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What one variant of a method adds.

    Attributes:
        shares: By stack and source.
        outside: Bytes saved outside the layers.
        resident: Frozen bytes it brings, by place.
        growth: What the numeric settings add.
        has_lowest: Whether what it adds in the lowest layer has figures of its own.
        subset_names: Sources that a module switches on by naming them.
        reach: Which layers gradients flow through.
        excess: What the worst moments of a layer's computation add to what that layer and those
            below it keep, and to the gradients of what is above it, in bytes, by stack and one of
            ``WORST_MOMENTS``; stack -1 is all that is outside the layers.
        excess_alone: The same with one of the sites alone, or some of one kind, by these.
        of_weights: Storages besides the flow that do not grow with the text.
        longer: Part of the text's length that a virtual token of the method adds to it.
        state_share: Bytes of optimiser state for each byte that trains.
        step_bytes: The optimiser's temporaries where it updates one parameter at a time.
        is_approximate: Whether it could not be measured.
        method: Of what method it is.
    """

    shares: Mapping[Place, LayerShare]
    outside: int
    resident: Mapping[Place, float]
    growth: Growth
    subset_names: frozenset[str]
    reach: Reach = Reach.CARRYING
    excess: Mapping[Place, float] = field(default_factory=dict)
    excess_alone: Mapping[frozenset[Source], Mapping[Place, float]] = field(default_factory=dict)
    of_weights: frozenset[Any] = frozenset()
    longer: float = 0.0
    state_share: float = 0.0
    step_bytes: int = 0
    has_lowest: bool = False
    is_approximate: bool = False
    method: str = ""

    def sources(self, settings: Mapping[str, Setting], stack: int) -> tuple[Source, ...]:
        """Return the sources of a stack that a module with these settings trains."""
        named = {name for value in settings.values() if isinstance(value, tuple) for name in value}
        return tuple(
            source
            for place, source in self.shares
            if place == stack and (source not in self.subset_names or source in named)
        )

    def stretch(self, settings: Mapping[str, Setting]) -> float:
        """Return the part of the text's length that a module with these settings adds to it."""
        if not self.longer:
            return 0.0
        number = settings[VIRTUAL_TOKENS]
        assert isinstance(number, int)
        return self.longer * number

    def excesses(self, settings: Mapping[str, Setting]) -> Iterator[Mapping[Place, float]]:
        """Yield what the sites of a module do to the worst moments, together or kind by kind.

        Of a kind whose sites are not all chosen, each chosen one counts alone.
        """
        named = {name for value in settings.values() if isinstance(value, tuple) for name in value}
        chosen = [sites for sites in self.excess_alone if sites <= named]
        if not chosen or len(chosen) == len(self.excess_alone):
            yield self.excess
        else:
            for sites in chosen:
                if not any(sites < others for others in chosen):
                    yield self.excess_alone[sites]
