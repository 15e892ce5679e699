"""What one dimension may be, and its four translations.

A domain knows how its value becomes entries of the encoded vector and back, how a point of
the unit cube becomes a value (its prior), and what the neighbours of a value are.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from autopeft.search_spaces.method import Dimension

#: What the encoded vector holds where a dimension does not apply.
NEUTRAL = 0.5


class Domain(ABC):
    """One dimension of a space.

    Contract: ``decode(encode(v)) == v`` for every member ``v``; ``decode`` and ``draw`` return
    a member for any finite input; ``neighbour`` returns a different member where there is one.

    Attributes:
        name: Name of the dimension.
        columns: Names of its entries in the encoded vector, each in [0, 1].
        num_coordinates: Coordinates of the unit cube that one draw reads.
        is_constant: Whether there is only one value.
        default: A member.
    """

    name: str
    columns: tuple[str, ...]
    num_coordinates: int
    is_constant: bool
    default: Any

    @abstractmethod
    def __contains__(self, value: object) -> bool: ...

    @abstractmethod
    def describe(self) -> str:
        """Say in a few words what the values are."""

    @abstractmethod
    def encode(self, value: Any) -> Sequence[float]:
        """Return one number in [0, 1] for each column."""

    @abstractmethod
    def decode(self, codes: Sequence[float]) -> Any:
        """Return the member nearest to the codes."""

    @abstractmethod
    def draw(self, u: Sequence[float]) -> Any:
        """Return the member at a point of the unit cube: uniform ``u`` draws from the prior."""

    @abstractmethod
    def neighbour(self, value: Any, generator: np.random.Generator) -> Any:
        """Return a member close to ``value`` but different, or ``value`` if it is the only one."""

    @abstractmethod
    def nearest(self, value: Any) -> Any:
        """Return the member closest to a value of the same type that may be none."""


class ValueDomain(Domain):
    """One of several values: ordered (one column) or not (one flag each).

    Positive numbers are placed on a log scale, truth values at 0 and 1.

    Args:
        dimension: What the method declares.
        values: The members; all of the dimension's values where None.
    """

    def __init__(self, dimension: Dimension, values: Sequence[Any] | None = None) -> None:
        self.name = dimension.name
        self.values = tuple(dimension.values if values is None else values)
        self.num_coordinates = 1
        self.is_constant = len(self.values) == 1
        self._index = {(type(value), value): index for index, value in enumerate(self.values)}
        self._codes = self._code_table(dimension)
        if len(self._codes[0]) == 1:
            self.columns: tuple[str, ...] = (self.name,)
        else:
            self.columns = tuple(f"{self.name}:{value}" for value in self.values)
        self.is_ordered = dimension.kind == "ordinal"
        self.default = self.nearest(dimension.default)

    def _code_table(self, dimension: Dimension) -> list[tuple[float, ...]]:
        count = len(self.values)
        if count == 1:
            return [(NEUTRAL,)]
        if dimension.kind == "ordinal":
            if all(_is_number(value) and value > 0 for value in self.values):
                scale = [math.log(value) for value in self.values]
            else:
                scale = [float(index) for index in range(count)]
            return [((place - scale[0]) / (scale[-1] - scale[0]),) for place in scale]
        if count == 2:
            return [(0.0,), (1.0,)]
        return [tuple(float(i == index) for i in range(count)) for index in range(count)]

    def __contains__(self, value: object) -> bool:
        return (type(value), value) in self._index

    def describe(self) -> str:
        """Say in a few words what the values are."""
        return ", ".join(_text(value) for value in self.values)

    def encode(self, value: Any) -> Sequence[float]:
        """Return the codes; see :class:`Domain`."""
        return self._codes[self._index[type(value), value]]

    def decode(self, codes: Sequence[float]) -> Any:
        """Return the member nearest to the codes."""
        if len(self._codes[0]) > 1:
            return self.values[max(range(len(codes)), key=codes.__getitem__)]
        distances = [abs(code[0] - codes[0]) for code in self._codes]
        return self.values[min(range(len(distances)), key=distances.__getitem__)]

    def draw(self, u: Sequence[float]) -> Any:
        """Return the member at a point of the unit cube."""
        return self.values[_index(u[0], len(self.values))]

    def neighbour(self, value: Any, generator: np.random.Generator) -> Any:
        """Return a member close by but different."""
        if self.is_constant:
            return value
        here = self._index[type(value), value]
        if self.is_ordered:
            steps = [i for i in (here - 1, here + 1) if 0 <= i < len(self.values)]
        else:
            steps = [i for i in range(len(self.values)) if i != here]
        return self.values[steps[int(generator.integers(len(steps)))]]

    def nearest(self, value: Any) -> Any:
        """Return the closest member."""
        if value in self:
            return value
        if self.is_ordered and _is_number(value) and all(map(_is_number, self.values)):
            if value > 0 and all(member > 0 for member in self.values):
                return min(self.values, key=lambda member: abs(math.log(member / value)))
            return min(self.values, key=lambda member: abs(member - value))
        return self.values[0]


class SubsetDomain(Domain):
    """A non-empty subset of some values, kept in their order: one flag for each value.

    Where only listed subsets are allowed, values that always come together share a flag, and
    those that are in every subset, or in none, have none. The prior draws the size uniformly
    first, so that "all of them" is as likely as one alone.

    Args:
        name: Name of the dimension.
        values: What a subset is taken from.
        allowed: The only subsets allowed; any non-empty one where None.
        default: A good subset; the nearest allowed one is kept.
    """

    def __init__(
        self,
        name: str,
        values: Sequence[Any],
        *,
        allowed: Iterable[Sequence[Any]] | None = None,
        default: Sequence[Any],
    ) -> None:
        self.name = name
        self.values = tuple(values)
        self._place = {value: index for index, value in enumerate(self.values)}
        self.allowed = None if allowed is None else _distinct(self.sort(s) for s in allowed)
        if self.allowed is None and len(self.values) == 1:
            self.allowed = (self.values,)
        self._flags = self._flagged()
        self.columns = tuple(f"{name}:{'+'.join(map(str, each))}" for each in self._flags)
        self.is_constant = self.allowed is not None and len(self.allowed) == 1
        self.num_coordinates = 1 if self.allowed is not None else 1 + len(self.values)
        self._masks = {subset: self.mask(subset) for subset in self.allowed or ()}
        self.default = self.nearest(default)

    def _flagged(self) -> tuple[tuple[Any, ...], ...]:
        """Return the groups of values that have a flag."""
        if self.allowed is None:
            return tuple((value,) for value in self.values)
        together: dict[tuple[bool, ...], list[Any]] = {}
        for value in self.values:
            together.setdefault(tuple(value in subset for subset in self.allowed), []).append(value)
        return tuple(tuple(each) for where, each in together.items() if len(set(where)) == 2)

    def sort(self, subset: Iterable[Any]) -> tuple[Any, ...]:
        """Return the members of a subset in order, each once."""
        return tuple(sorted(set(subset), key=self._place.__getitem__))

    def mask(self, subset: Iterable[Any]) -> int:
        """Return the subset as the bits of a number; values from elsewhere are left out."""
        return sum(1 << self._place[value] for value in set(subset) if value in self._place)

    def __contains__(self, value: object) -> bool:
        if self.allowed is not None:
            return isinstance(value, tuple) and value in self._masks
        if not isinstance(value, tuple) or not value:
            return False
        places = [self._place.get(item, -1) for item in value]
        return places[0] >= 0 and all(a < b for a, b in pairwise(places))

    def describe(self) -> str:
        """Say in a few words what the values are."""
        if self.allowed is None:
            return f"any of {', '.join(map(str, self.values))}"
        if len(self.allowed) > 4:
            return f"one of {len(self.allowed)} subsets of {', '.join(map(str, self.values))}"
        return " | ".join("+".join(map(str, subset)) for subset in self.allowed)

    def encode(self, value: Any) -> Sequence[float]:
        """Return the codes; see :class:`Domain`."""
        if self.allowed is None:
            codes = [0.0] * len(self.values)
            for item in value:
                codes[self._place[item]] = 1.0
            return codes
        inside = set(value)
        return [float(each[0] in inside) for each in self._flags]

    def decode(self, codes: Sequence[float]) -> Any:
        """Return the member nearest to the codes."""
        if self.allowed is None:
            chosen = tuple(
                value for value, code in zip(self.values, codes, strict=True) if code >= 0.5
            )
            return chosen or (self.values[max(range(len(codes)), key=codes.__getitem__)],)
        if self.is_constant:
            return self.allowed[0]
        return min(
            self.allowed,
            key=lambda subset: math.fsum(
                abs(a - b) for a, b in zip(self.encode(subset), codes, strict=True)
            ),
        )

    def draw(self, u: Sequence[float]) -> Any:
        """Return the member at a point of the unit cube."""
        if self.allowed is not None:
            return self.allowed[_index(u[0], len(self.allowed))]
        return self._pick(1 + _index(u[0], len(self.values)), u[1:])

    def _pick(self, size: int, u: Sequence[float]) -> tuple[Any, ...]:
        """Return the ``size`` values with the smallest coordinates."""
        order = sorted(range(len(self.values)), key=u.__getitem__)
        return tuple(self.values[place] for place in sorted(order[:size]))

    def neighbour(self, value: Any, generator: np.random.Generator) -> Any:
        """Return a member close by but different."""
        if self.is_constant:
            return value
        if self.allowed is not None:
            return self._nearby(value, generator)
        return self._toggle(value, generator)

    def _toggle(self, value: tuple[Any, ...], generator: np.random.Generator) -> tuple[Any, ...]:
        """Add one value, remove one, or swap one for another."""
        inside = set(value)
        outside = [item for item in self.values if item not in inside]
        moves = ["add", "swap"] if outside else []
        if len(value) > 1:
            moves.append("remove")
        move = moves[int(generator.integers(len(moves)))]
        if move != "add":
            inside.remove(value[int(generator.integers(len(value)))])
        if move != "remove":
            inside.add(outside[int(generator.integers(len(outside)))])
        return self.sort(inside)

    def _nearby(self, value: Any, generator: np.random.Generator) -> Any:
        """Draw an allowed subset, mostly one that differs in at most two values."""
        assert self.allowed is not None
        here = self._masks.get(value, self.mask(value))
        others = [subset for subset, mask in self._masks.items() if mask != here]
        close = [s for s in others if (self._masks[s] ^ here).bit_count() <= 2]
        pool = close if close and generator.random() < 0.8 else others
        return pool[int(generator.integers(len(pool)))]

    def nearest(self, value: Any) -> Any:
        """Return the closest member."""
        if not isinstance(value, tuple | list):
            return self.default
        inside = tuple(item for item in self.values if item in set(value)) or self.values
        if self.allowed is None or inside in self._masks:
            return inside
        wanted = self.mask(inside)
        return min(self.allowed, key=lambda subset: (self._masks[subset] ^ wanted).bit_count())


def domain_of(dimension: Dimension) -> Domain:
    """Return the unrestricted domain of a dimension."""
    if dimension.kind == "subset":
        assert isinstance(dimension.default, tuple)
        return SubsetDomain(dimension.name, dimension.values, default=dimension.default)
    return ValueDomain(dimension)


def _index(u: float, count: int) -> int:
    return min(int(u * count), count - 1)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _distinct(subsets: Iterable[tuple[Any, ...]]) -> tuple[tuple[Any, ...], ...]:
    return tuple(dict.fromkeys(subsets))
