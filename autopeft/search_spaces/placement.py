"""Which layers carry a method.

Whatever a placement is called, it ends as an explicit set of layers: "the last two" and
"a range from 10 to 11" of twelve are one configuration, not two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from autopeft.search_spaces.domains import SubsetDomain

Kind = Literal["all", "last", "range", "free"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class LayerDomain(SubsetDomain):
    """Sets of layers that certain kinds of placement can reach.

    The prior draws the kind first, each equally likely, then its size, then where it lies.

    Args:
        num_layers: Layers of the model.
        kinds: ``all`` layers, the ``last`` k, a contiguous ``range``, or ``free`` per layer.
    """

    def __init__(self, num_layers: int, kinds: Sequence[Kind]) -> None:
        self.kinds = tuple(kind for kind in KINDS if kind in kinds)
        self.num_layers = num_layers
        layers = tuple(range(num_layers))
        self._structured = tuple(dict.fromkeys(_structured(num_layers, self.kinds)))
        allowed = None if "free" in self.kinds else self._structured
        super().__init__("layer", layers, allowed=allowed, default=layers)
        if not self.is_constant:
            extent = num_layers if "free" in self.kinds else 1
            self.num_coordinates = 2 + extent

    def describe(self) -> str:
        """Say in a few words what the values are."""
        words = {
            "all": "all layers",
            "last": "the last k",
            "range": "a range",
            "free": "free per layer",
        }
        return ", ".join(words[kind] for kind in self.kinds)

    def draw(self, u: Sequence[float]) -> Any:
        """Return the member at a point of the unit cube."""
        if self.is_constant:
            return self.default
        kind = self.kinds[min(int(u[0] * len(self.kinds)), len(self.kinds) - 1)]
        size = 1 + min(int(u[1] * self.num_layers), self.num_layers - 1)
        if kind == "all":
            return self.values
        if kind == "last":
            return self.values[-size:]
        if kind == "range":
            starts = self.num_layers - size + 1
            first = min(int(u[2] * starts), starts - 1)
            return self.values[first : first + size]
        return self._pick(size, u[2:])

    def neighbour(self, value: Any, generator: np.random.Generator) -> Any:
        """Return a member close by but different."""
        if self.allowed is None and self._structured and generator.random() < 0.3:
            others = [layers for layers in self._structured if layers != value]
            if others:
                return others[int(generator.integers(len(others)))]
        return super().neighbour(value, generator)

    def kind_of(self, layers: tuple[int, ...]) -> Kind:
        """Return the simplest kind of this domain that reaches these layers."""
        for kind in self.kinds:
            if kind == "free" or layers in _structured(self.num_layers, (kind,)):
                return kind
        raise KeyError(layers)


def _structured(num_layers: int, kinds: Sequence[Kind]) -> list[tuple[int, ...]]:
    layers = tuple(range(num_layers))
    sets: list[tuple[int, ...]] = []
    if "all" in kinds:
        sets.append(layers)
    if "last" in kinds:
        sets += [layers[-size:] for size in range(1, num_layers + 1)]
    if "range" in kinds:
        sets += [
            layers[first : first + size]
            for size in range(1, num_layers + 1)
            for first in range(num_layers - size + 1)
        ]
    return sets
