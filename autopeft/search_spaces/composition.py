"""Which methods a configuration may hold together.

A rule of the space is a property of a set of methods: it is not empty, not larger than the
space allows, and no two of its methods rule each other out. Two methods do where

- one of them stands alone (``Method.is_combinable``), or is an adapter taken as it is;
- both need what a model has once (``Method.exclusive``), such as the tokens in front of a text;
- both must be the first on a layer (``Method.needs_bare_layers``);
- the space takes one method of a family and both are of one.

Where training settings are searched, the methods must also have a combination of them that all
can be trained with; see :mod:`~autopeft.search_spaces.training_domain`.

Any subset of such a set is one too, so that everything here works by adding and removing
single methods, and costs the same for five methods as for a hundred. A space may instead ask
for all of its methods in each configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any, Literal

import numpy as np

from autopeft.search_spaces.domains import Domain, SubsetDomain
from autopeft.search_spaces.part import Part
from autopeft.search_spaces.training_domain import EVERY, common

Combine = Literal["one", "any", "all"]
#: Methods in one configuration at most, where a space does not say.
MAX_METHODS = 3


class MethodSets(Domain):
    """The sets of methods that a configuration may hold, as sorted tuples of names.

    Encoded as a flag for each method. The prior draws the size first, each equally likely,
    then methods, leaving out those that one already chosen rules out.

    Args:
        names: The methods, sorted.
        conflicts: For each method those that never stand beside it, symmetric.
        max_methods: Largest size of a set.
        masks: The training settings that each can be trained with, as bits; all where None.
    """

    def __init__(
        self,
        names: Sequence[str],
        conflicts: Mapping[str, frozenset[str]],
        max_methods: int,
        masks: Mapping[str, int] | None = None,
    ) -> None:
        self.name = "method"
        self.values = tuple(names)
        self.conflicts = conflicts
        self.masks = masks or dict.fromkeys(self.values, EVERY)
        self._place = {name: place for place, name in enumerate(self.values)}
        can_pair = any(
            b not in conflicts[a] and self.masks[a] & self.masks[b]
            for a, b in combinations(self.values, 2)
        )
        self.max_methods = min(max_methods, len(self.values)) if can_pair else 1
        self.columns = tuple(f"method:{name}" for name in self.values)
        self.is_constant = len(self.values) == 1
        self.num_coordinates = 1 if self.max_methods == 1 else 1 + len(self.values)
        self.default = self.values[:1]

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, tuple) or not 0 < len(value) <= self.max_methods:
            return False
        places = [self._place.get(item, -1) for item in value]
        if places[0] < 0 or not all(a < b for a, b in pairwise(places)):
            return False
        if not self.mask(value):
            return False
        return not any(b in self.conflicts[a] for a, b in combinations(value, 2))

    def mask(self, names: Iterable[str]) -> int:
        """Return the training settings that all of some methods can be trained with, as bits."""
        return common(self.masks[name] for name in names)

    def describe(self) -> str:
        """Say in a few words what the values are."""
        if self.max_methods == 1:
            return f"one of {', '.join(self.values)}"
        return f"up to {self.max_methods} of {', '.join(self.values)}"

    def encode(self, value: Any) -> Sequence[float]:
        """Return the flags."""
        return [float(name in value) for name in self.values]

    def decode(self, codes: Sequence[float]) -> tuple[str, ...]:
        """Return the methods with the largest codes above one half that can stand together."""
        order = sorted(range(len(codes)), key=lambda place: (-codes[place], place))
        wanted = [place for place in order if codes[place] >= 0.5] or order[:1]
        return self._compatible((self.values[place] for place in wanted), self.max_methods)

    def draw(self, u: Sequence[float]) -> tuple[str, ...]:
        """Return the set at a point of the unit cube."""
        count = len(self.values)
        if self.max_methods == 1:
            return (self.values[min(int(u[0] * count), count - 1)],)
        size = 1 + min(int(u[0] * self.max_methods), self.max_methods - 1)
        order = sorted(range(count), key=u[1:].__getitem__)
        return self._compatible((self.values[place] for place in order), size)

    def neighbour(self, value: Any, generator: np.random.Generator) -> tuple[str, ...]:
        """Return a set with a method more, one less, or one in place of another."""
        moves: list[tuple[str, ...]] = []
        if len(value) < self.max_methods:
            moves.append(("", *self._beside(value)))
        for out in value:
            rest = tuple(name for name in value if name != out)
            if rest:
                moves.append((out, ""))
            moves.append((out, *(name for name in self._beside(rest) if name != out)))
        moves = [move for move in moves if len(move) > 1]
        if not moves:
            return self.default if value not in self else tuple(value)
        out, *added = moves[int(generator.integers(len(moves)))]
        new = added[int(generator.integers(len(added)))]
        kept = [name for name in value if name != out]
        return self.sort([*kept, new] if new else kept)

    def nearest(self, value: Iterable[str]) -> tuple[str, ...]:
        """Return a largest set of those methods that is allowed, earlier ones first."""
        known = [name for name in self.values if name in set(value)]
        return self._compatible(known, self.max_methods) or self.default

    def sort(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return names in the order of sets."""
        return tuple(sorted(set(names), key=self._place.__getitem__))

    def all_sets(self, most: int) -> list[tuple[str, ...]]:
        """Return the sets, small ones first; only the first ``most`` of them."""
        found: list[tuple[str, ...]] = []
        grown: list[tuple[str, ...]] = [()]
        for _ in range(self.max_methods):
            grown = [
                (*chosen, name)
                for chosen in grown
                for name in self._beside(chosen)
                if not chosen or self._place[name] > self._place[chosen[-1]]
            ]
            found += grown
            if len(found) >= most:
                break
        return found[:most]

    def _beside(self, chosen: Iterable[str]) -> list[str]:
        taken = set(chosen)
        barred = taken.union(*(self.conflicts[name] for name in taken)) if taken else taken
        left = self.mask(taken)
        return [name for name in self.values if name not in barred and left & self.masks[name]]

    def _compatible(self, names: Iterable[str], size: int) -> tuple[str, ...]:
        """Add the names one after the other where they fit, up to a size."""
        found: list[str] = []
        barred: set[str] = set()
        left = EVERY
        for name in names:
            if name not in barred and left & self.masks[name]:
                found.append(name)
                barred |= self.conflicts[name]
                left &= self.masks[name]
                if len(found) == size:
                    break
        return self.sort(found)


class WholeSets(MethodSets):
    """All methods in each configuration, or one of those that stand alone.

    Args:
        names: All names, sorted.
        whole: Those that are always together; there are training settings for all of them.
        masks: As for :class:`MethodSets`.
    """

    def __init__(
        self, names: Sequence[str], whole: Sequence[str], masks: Mapping[str, int] | None = None
    ) -> None:
        super().__init__(names, dict.fromkeys(names, frozenset()), len(names), masks)
        sets = [self.sort(whole), *((name,) for name in names if name not in whole)]
        self._sets = SubsetDomain("method", self.values, allowed=sets, default=sets[0])
        self.columns = self._sets.columns
        self.is_constant = self._sets.is_constant
        self.num_coordinates = 1
        self.default = sets[0]

    def __contains__(self, value: object) -> bool:
        return value in self._sets

    def describe(self) -> str:
        """Say in a few words what the values are."""
        return self._sets.describe()

    def encode(self, value: Any) -> Sequence[float]:
        """Return the flags."""
        return self._sets.encode(value)

    def decode(self, codes: Sequence[float]) -> tuple[str, ...]:
        """Return the nearest set."""
        return tuple(self._sets.decode(codes))

    def draw(self, u: Sequence[float]) -> tuple[str, ...]:
        """Return the set at a point of the unit cube."""
        return tuple(self._sets.draw(u))

    def neighbour(self, value: Any, generator: np.random.Generator) -> tuple[str, ...]:
        """Return another set."""
        return tuple(self._sets.neighbour(value, generator))

    def nearest(self, value: Iterable[str]) -> tuple[str, ...]:
        """Return the set that differs in the fewest methods."""
        return tuple(self._sets.nearest(tuple(value)))

    def all_sets(self, most: int) -> list[tuple[str, ...]]:
        """Return the sets; only the first ``most`` of them."""
        return list(self._sets.allowed or ())[:most]


def conflicts_among(
    parts: Iterable[Part], *, one_per_family: bool = False
) -> dict[str, frozenset[str]]:
    """Return for each part the names of those that never stand beside it; see the top."""
    listed = list(parts)
    found: dict[str, set[str]] = {part.name: set() for part in listed}
    for a, b in combinations(listed, 2):
        if why_apart(a, b, one_per_family=one_per_family) is not None:
            found[a.name].add(b.name)
            found[b.name].add(a.name)
    return {name: frozenset(others) for name, others in found.items()}


def why_apart(a: Part, b: Part, *, one_per_family: bool = False) -> str | None:
    """Return why two parts never stand together, None where they may."""
    for part in (a, b):
        if part.fixed is not None:
            return f"{part.name} is taken as it is"
        if not part.method.is_combinable:
            return f"{part.name} stands alone"
    both = a.method.exclusive & b.method.exclusive
    if both:
        return f"both need the model's {', '.join(sorted(both))}"
    if a.method.needs_bare_layers and b.method.needs_bare_layers:
        return "both have to be the first on a layer"
    if one_per_family and a.method.family == b.method.family:
        return f"the space takes one method of the family {a.method.family!r}"
    return None
