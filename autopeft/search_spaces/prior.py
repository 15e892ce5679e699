"""From points of the unit cube to configurations: the prior over a space.

Uniform points give every size of a set of methods the same chance, and within a method every
kind of placement, every size of a subset, every other value and every order of magnitude of
the learning rate. Low-discrepancy points (Sobol) spread over the same dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autopeft.search_spaces.composer import Composer
from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.encoding import Blocks


class Prior:
    """Map a point of the unit cube to a configuration.

    Args:
        composer: The parts of the space, and how they make a configuration.
        blocks: Which parts share coordinates (never two in one configuration).
    """

    def __init__(self, composer: Composer, blocks: Blocks) -> None:
        self._composer = composer
        self._methods = composer.methods
        self._first = self._methods.num_coordinates + 1
        sizes: dict[str, int] = {}
        for part in composer.parts.values():
            for name, domain in part.all_domains.items():
                key = blocks.prefix(part.name, name) + name
                sizes[key] = max(sizes.get(key, 0), domain.num_coordinates)
        starts: dict[str, int] = {}
        total = self._first
        for key, size in sizes.items():
            starts[key] = total
            total += size
        self._training = total
        self.num_coordinates = total + composer.training.num_coordinates
        self._draws = {
            part.name: [
                (name, domain, starts[blocks.prefix(part.name, name) + name])
                for name, domain in part.all_domains.items()
            ]
            for part in composer.parts.values()
        }

    def configuration(self, u: Sequence[float]) -> Configuration:
        """Return the configuration at a point of the unit cube."""
        methods = self._methods.draw(u[: self._first - 1])
        values = {method: self.values(method, u) for method in methods}
        training = self._composer.training.draw(u[self._training :], self._methods.mask(methods))
        return self._composer.configuration(values, u[self._first - 1], dict(training))

    def values(self, method: str, u: Sequence[float]) -> dict[str, Any]:
        """Return a value for each domain of one method at a point of the unit cube."""
        return {
            name: domain.draw(u[start : start + domain.num_coordinates])
            for name, domain, start in self._draws[method]
        }
