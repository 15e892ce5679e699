"""From points of the unit cube to configurations: the prior over a space.

Uniform points give every set of methods the same chance, and within a method every kind of
placement, every size of a subset, every other value and every order of magnitude of the
learning rate. Low-discrepancy points (Sobol) spread over the same dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.domains import SubsetDomain
from autopeft.search_spaces.encoding import Encoding
from autopeft.search_spaces.part import Part


class Prior:
    """Map a point of the unit cube to a configuration.

    Args:
        parts: The methods of the space by name.
        methods: Which sets of methods a configuration may hold.
        encoding: Knows the learning rates of a set of methods.
        is_shared: Whether methods share coordinates (never two in one configuration).
    """

    def __init__(
        self,
        parts: dict[str, Part],
        methods: SubsetDomain,
        encoding: Encoding,
        *,
        is_shared: bool,
    ) -> None:
        self._parts = parts
        self._methods = methods
        self._encoding = encoding
        self._first = methods.num_coordinates + 1
        sizes: dict[str, int] = {}
        keys: dict[tuple[str, str], str] = {}
        for part in parts.values():
            for name, domain in part.all_domains.items():
                key = name if is_shared else f"{part.name}.{name}"
                keys[part.name, name] = key
                sizes[key] = max(sizes.get(key, 0), domain.num_coordinates)
        starts: dict[str, int] = {}
        total = self._first
        for key, size in sizes.items():
            starts[key] = total
            total += size
        self.num_coordinates = total
        self._draws = {
            part.name: [
                (name, domain, starts[keys[part.name, name]]) for name, domain in domains.items()
            ]
            for part in parts.values()
            for domains in [part.all_domains]
        }

    def configuration(self, u: Sequence[float]) -> Configuration:
        """Return the configuration at a point of the unit cube."""
        methods = self._methods.draw(u[: self._first - 1])
        modules = tuple(self._parts[method].module(self.values(method, u)) for method in methods)
        rate = self._encoding.learning_rates(methods).at(u[self._first - 1])
        return Configuration(modules=modules, learning_rate=rate)

    def values(self, method: str, u: Sequence[float]) -> dict[str, Any]:
        """Return a value for each domain of one method at a point of the unit cube."""
        return {
            name: domain.draw(u[start : start + domain.num_coordinates])
            for name, domain, start in self._draws[method]
        }
