"""Which layers carry a method.

Whatever a placement is called, it ends as an explicit set of layers: "the last two" and
"a range from 10 to 11" of twelve are one configuration, not two.

A space file writes a placement as one of these, or a list of several::

    all                               # all layers
    last                              # the last k, for each k
    range                             # each contiguous range
    free                              # each set of layers
    decoder                           # all layers of that stack
    {layers: [0, 3, -1]}              # these layers; negative ones count from the end
    {pattern: every 2}                # every second layer from 0; "every 2 from 1" from 1
    {pattern: "110"}                  # on, on, off, and again until the layers end
    {regex: "layer[.](0|2)[.]"}    # layers with a module whose path holds a match

A mapping may also name a ``stack``, whose layers then are the ones counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from autopeft.naming import did_you_mean
from autopeft.records import ModelShape
from autopeft.search_spaces.domains import SubsetDomain

Kind = Literal["all", "last", "range", "free"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_WORDS = {
    "all": "all layers",
    "last": "the last k",
    "range": "a range",
    "free": "free per layer",
}
_KEYS = ("layers", "pattern", "regex", "stack")


class LayerDomain(SubsetDomain):
    """Sets of layers that certain kinds of placement can reach.

    Encoded as a flag for each layer, or, where every set is contiguous, as its first and its
    last layer. The prior draws the kind first, each equally likely (a named set counts as
    one), then its size, then where it lies.

    Args:
        num_layers: Layers of the model.
        kinds: ``all`` layers, the ``last`` k, a contiguous ``range``, or ``free`` per layer.
        named: Further sets of layers, each by what to call it.
    """

    def __init__(
        self,
        num_layers: int,
        kinds: Sequence[Kind],
        named: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        self.kinds = tuple(kind for kind in KINDS if kind in kinds)
        self.named = dict(named or {})
        self.num_layers = num_layers
        layers = tuple(range(num_layers))
        sets = [*_structured(num_layers, self.kinds), *self.named.values()]
        self._structured = tuple(dict.fromkeys(sets))
        allowed = None if "free" in self.kinds else self._structured
        super().__init__("layer", layers, allowed=allowed, default=layers)
        self._ends = () if self.allowed is None else _varying_ends(self.allowed)
        if self._ends:
            self.columns = tuple(f"layers:{end}" for end in self._ends)
        if not self.is_constant:
            extent = num_layers if "free" in self.kinds else 1
            self.num_coordinates = 2 + extent

    @property
    def choices(self) -> tuple[str, ...]:
        """Kinds and names of sets."""
        return (*self.kinds, *self.named)

    def describe(self) -> str:
        """Say in a few words what the values are."""
        return ", ".join([*(_WORDS[kind] for kind in self.kinds), *self.named])

    def encode(self, value: Any) -> Sequence[float]:
        """Return a flag for each layer, or where the set begins and ends."""
        if not self._ends:
            return super().encode(value)
        places = {"first": value[0], "last": value[-1]}
        return [places[end] / (self.num_layers - 1) for end in self._ends]

    def draw(self, u: Sequence[float]) -> Any:
        """Return the member at a point of the unit cube."""
        if self.is_constant:
            return self.default
        kind = self.choices[min(int(u[0] * len(self.choices)), len(self.choices) - 1)]
        size = 1 + min(int(u[1] * self.num_layers), self.num_layers - 1)
        if kind == "all":
            return self.values
        if kind == "last":
            return self.values[-size:]
        if kind == "range":
            starts = self.num_layers - size + 1
            first = min(int(u[2] * starts), starts - 1)
            return self.values[first : first + size]
        if kind == "free":
            return self._pick(size, u[2:])
        return self.named[kind]

    def neighbour(self, value: Any, generator: np.random.Generator) -> Any:
        """Return a member close by but different."""
        if self.allowed is None and self._structured and generator.random() < 0.3:
            others = [layers for layers in self._structured if layers != value]
            if others:
                return others[int(generator.integers(len(others)))]
        return super().neighbour(value, generator)

    def reached_by(self, choice: str) -> frozenset[tuple[int, ...]]:
        """Return the sets that a kind other than ``free``, or a name, reaches."""
        if choice in self.named:
            return frozenset([self.named[choice]])
        return frozenset(_structured(self.num_layers, (choice,)))

    def kind_of(self, layers: tuple[int, ...]) -> str:
        """Return the simplest kind or name of this domain that reaches these layers."""
        for choice in (*self.kinds[: len(self.kinds) - ("free" in self.kinds)], *self.named):
            if layers in self.reached_by(choice):
                return choice
        if "free" in self.kinds:
            return "free"
        raise KeyError(layers)


def named_layers(
    shape: ModelShape, given: Any, *, is_model_known: bool = True
) -> tuple[str, tuple[int, ...]]:
    """Return what to call a set of layers as a space file writes it, and its layers.

    Args:
        shape: The model.
        given: A stack's name or a mapping; see the top of this module.
        is_model_known: Whether layers outside of ``shape`` are a mistake.

    Raises:
        ValueError: it is no set of layers of this model, and why.
    """
    if isinstance(given, str):
        given = {"stack": given}
    if not isinstance(given, Mapping) or not given:
        raise ValueError(f"{given!r} is unknown; valid: {', '.join(sorted(KINDS))}")
    for key in given:
        if key not in _KEYS:
            raise ValueError(f"{key!r} is unknown{did_you_mean(str(key), _KEYS)}")
    ways = [key for key in _KEYS[:3] if key in given]
    if len(ways) > 1:
        raise ValueError(f"{' and '.join(ways)} are two ways to say it; give one")
    inside = _stack(shape, given["stack"]) if "stack" in given else tuple(range(shape.num_layers))
    name = str(given.get("stack", ""))
    chosen = inside
    if ways:
        (way,) = ways
        name = f"{name} {way} {given[way]}".strip()
        chosen = _WAYS[way](shape, given[way], inside)
    if not chosen and is_model_known:
        raise ValueError(f"{name}: none of the {shape.num_layers} layers")
    return name, chosen or tuple(range(shape.num_layers))


def _stack(shape: ModelShape, name: Any) -> tuple[int, ...]:
    first = 0
    for stack, number in shape.stacks:
        if stack == name:
            return tuple(range(first, first + number))
        first += number
    names = [stack for stack, _ in shape.stacks]
    raise ValueError(f"{name!r} is unknown{did_you_mean(str(name), [*KINDS, *names])}")


def _listed(shape: ModelShape, given: Any, inside: tuple[int, ...]) -> tuple[int, ...]:
    items = given if isinstance(given, list) else [given]
    wrong = [item for item in items if not isinstance(item, int) or isinstance(item, bool)]
    if wrong or not items:
        raise ValueError(f"layers: expected numbers of layers, got {given!r}")
    outside = [item for item in items if not -len(inside) <= item < len(inside)]
    if outside:
        raise ValueError(f"layers: {outside[0]} is none of the {len(inside)} layers")
    return tuple(sorted({inside[item] for item in items}))


def _repeated(shape: ModelShape, given: Any, inside: tuple[int, ...]) -> tuple[int, ...]:
    words = re.fullmatch(r"every (\d+)(?: from (\d+))?", str(given).strip())
    if words:
        step, first = int(words[1]), int(words[2] or 0)
        if step:
            return inside[first::step]
    elif isinstance(given, str) and re.fullmatch("[01]*1[01]*", given):
        return tuple(n for i, n in enumerate(inside) if given[i % len(given)] == "1")
    raise ValueError(f"pattern: expected 'every 2', 'every 2 from 1' or '110', got {given!r}")


def _matched(shape: ModelShape, given: Any, inside: tuple[int, ...]) -> tuple[int, ...]:
    try:
        pattern = re.compile(given)
    except (re.error, TypeError) as error:
        raise ValueError(f"regex: {given!r} is no regular expression ({error})") from None
    found: set[int] = set()
    for site in shape.all_sites:
        if site.is_in_layers:
            own = site.layers_among(inside)
            found.update(layer for layer in own if pattern.search(site.path_in(layer)))
    return tuple(sorted(found))


_WAYS = {"layers": _listed, "pattern": _repeated, "regex": _matched}


def _varying_ends(sets: Sequence[tuple[int, ...]]) -> tuple[str, ...]:
    """Return which ends of contiguous sets vary; nothing where a set has a hole."""
    if any(each[-1] - each[0] >= len(each) for each in sets):
        return ()
    ends = {"first": {each[0] for each in sets}, "last": {each[-1] for each in sets}}
    return tuple(end for end, places in ends.items() if len(places) > 1)


def _structured(num_layers: int, kinds: Sequence[str]) -> list[tuple[int, ...]]:
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
