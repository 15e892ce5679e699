"""What the numeric settings of a method add to the smallest: measured at a few, interpolated.

Each is measured at up to four values, and each pair of them at the far corner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopeft.search_spaces.configuration import Module, Setting
from autopeft.search_spaces.method import Dimension

#: Where in a layer something trains: the name of a site, or "" for the layer itself.
Source = str
#: Stack and source; ``(-1, "")`` is outside the layers.
Place = tuple[int, Source]
#: Bytes saved by autograd, resident bytes that do not train, and those of the saved ones that do
#: not grow with the text.
Bytes = NDArray[np.float64]
#: Values of a numeric setting that are measured, at most.
NUM_POINTS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """What numeric settings add to a place: along each, and for each pair at the far corner.

    Attributes:
        along: By setting: its measured values, and the bytes at each beyond the smallest.
        pairs: By two settings: bytes at both largest values beyond the sum along each.
    """

    along: Mapping[str, tuple[NDArray[np.float64], Mapping[Place, Bytes]]]
    pairs: Mapping[tuple[str, str], Mapping[Place, Bytes]]

    def at(self, place: Place, settings: Mapping[str, Setting]) -> Bytes:
        """Return the bytes to add at a place."""
        total = np.zeros(3)
        for name, (values, places) in self.along.items():
            if place in places:
                total += _interpolated(settings[name], values, places[place])
        for (one, other), places in self.pairs.items():
            if place in places:
                share = _share(settings[one], self.along[one][0])
                total += places[place] * share * _share(settings[other], self.along[other][0])
        return total


def _interpolated(value: Setting, xs: NDArray[np.float64], ys: Bytes) -> Bytes:
    """Return what stands between measured values; beyond the largest it goes on as before it."""
    assert isinstance(value, int | float)
    x = float(value)
    if x > xs[-1]:
        return np.asarray(ys[-1] + (ys[-1] - ys[-2]) / (xs[-1] - xs[-2]) * (x - xs[-1]))
    right = min(max(int(np.searchsorted(xs, x)), 1), len(xs) - 1)
    left = right - 1
    share = (x - xs[left]) / (xs[right] - xs[left])
    line = ys[left] + share * (ys[right] - ys[left])
    if len(xs) == 2 or share in (0.0, 1.0):
        return np.asarray(line)
    # Attention to a prompt and rotations by a matrix grow with the square: a parabola through
    # the third nearest value.
    third = left - 1 if right == len(xs) - 1 else right + 1
    slopes = (ys[right] - ys[left]) / (xs[right] - xs[left])
    bend = ((ys[third] - ys[left]) / (xs[third] - xs[left]) - slopes) / (xs[third] - xs[right])
    return np.asarray(line + bend * (x - xs[left]) * (x - xs[right]))


def _share(value: Setting, xs: NDArray[np.float64]) -> float:
    assert isinstance(value, int | float)
    return float((float(value) - xs[0]) / (xs[-1] - xs[0]))


def measured_growth(
    module: Module,
    numeric: Sequence[Dimension],
    beyond: Callable[[Mapping[str, Setting]], Mapping[Place, Bytes]],
) -> Growth:
    """Measure what the numeric settings of a module add.

    Args:
        module: The module with all of them at their smallest.
        numeric: Its numeric dimensions.
        beyond: Bytes by place that some settings add to those of ``module``.
    """
    along: dict[str, tuple[NDArray[np.float64], Mapping[Place, Bytes]]] = {}
    for dimension in numeric:
        ordered = sorted(dimension.values)
        points = {ordered[-1]: beyond({dimension.name: ordered[-1]})}
        if not points[ordered[-1]]:
            continue
        for value in _between(ordered):
            points[value] = beyond({dimension.name: value})
            if _is_on_line(ordered[0], value, points[value], ordered[-1], points[ordered[-1]]):
                break
        values = np.array([ordered[0], *sorted(points)], dtype=np.float64)
        places = dict.fromkeys(place for found in points.values() for place in found)
        nothing = np.zeros(3)
        along[dimension.name] = (
            values,
            {
                place: np.stack([nothing, *(points[v].get(place, nothing) for v in sorted(points))])
                for place in places
            },
        )
    pairs: dict[tuple[str, str], dict[Place, Bytes]] = {}
    for one, other in combinations(along, 2):
        largest = {name: _plain(along[name][0][-1], module, name) for name in (one, other)}
        both = beyond(largest)
        alone: dict[Place, Bytes] = {}
        for name in (one, other):
            for place, amounts in along[name][1].items():
                alone[place] = alone.get(place, np.zeros(3)) + amounts[-1]
        rest = {
            place: both.get(place, np.zeros(3)) - alone.get(place, np.zeros(3))
            for place in {*both, *alone}
        }
        pairs[one, other] = {place: amount for place, amount in rest.items() if amount.any()}
    return Growth(along=along, pairs=pairs)


def is_numeric(dimension: Dimension) -> bool:
    """Tell whether a dimension is a number that sizes may depend on."""
    return (
        dimension.kind == "ordinal"
        and len(dimension.values) > 1
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in dimension.values)
    )


def _between(ordered: Sequence[Any]) -> list[Any]:
    """Return the values to measure between the ends, the middle first."""
    inner = ordered[1:-1]
    middle = inner[len(inner) // 2 :][:1]
    if len(inner) <= NUM_POINTS - 2:
        return [*middle, *(value for value in inner if value not in middle)]
    places = np.linspace(0, len(inner) - 1, NUM_POINTS - 1).round().astype(int)[:-1]
    return [*middle, *(inner[place] for place in places if inner[place] not in middle)]


def _is_on_line(
    start: float,
    value: float,
    at_value: Mapping[Place, Bytes],
    end: float,
    at_end: Mapping[Place, Bytes],
) -> bool:
    """Tell whether bytes that begin at nothing grow in proportion, to the byte."""
    share = (value - start) / (end - start)
    return at_value.keys() == at_end.keys() and all(
        np.allclose(at_value[place], at_end[place] * share, rtol=0, atol=0.5) for place in at_end
    )


def _plain(value: float, module: Module, name: str) -> Setting:
    """Return a measured value as the type the setting has."""
    return int(value) if isinstance(module[name], int) else float(value)
