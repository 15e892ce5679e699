"""Configurations as points of the unit cube, for surrogates, and back.

One column for each method (a flag), one for the learning rate (log scale, relative to the
method's own range, so that "high for this method" means the same for all), and one or more
for each dimension. Where a configuration holds one method, methods share the columns of
dimensions of the same name: one flag per layer, one per site. Where it holds several, each
method has its own. What does not apply is :data:`~.domains.NEUTRAL`; dimensions with a
single value have no column.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.domains import NEUTRAL, Domain, SubsetDomain
from autopeft.search_spaces.part import LearningRates, Part


class Encoding:
    """Translate between configurations and vectors.

    Args:
        parts: The methods of the space by name.
        methods: Which sets of methods a configuration may hold.
        is_shared: Whether methods share columns (never two in one configuration).
    """

    def __init__(self, parts: dict[str, Part], methods: SubsetDomain, *, is_shared: bool) -> None:
        self._parts = parts
        self._methods = methods
        names = [] if methods.is_constant else list(methods.columns)
        if not all(part.learning_rates.is_constant for part in parts.values()):
            names.append("learning_rate")
        for part in parts.values():
            prefix = "" if is_shared else f"{part.name}."
            for domain in part.all_domains.values():
                if not domain.is_constant:
                    names += [prefix + column for column in domain.columns]
        self.names = tuple(dict.fromkeys(names))
        self._place = {name: place for place, name in enumerate(self.names)}
        self._rate = self._place.get("learning_rate")
        self._columns = {
            part.name: [
                (name, domain, self._places(domain, "" if is_shared else f"{part.name}."))
                for name, domain in part.all_domains.items()
            ]
            for part in parts.values()
        }
        self._template = self._blank(is_shared)

    def _places(self, domain: Domain, prefix: str) -> list[int]:
        """Return the place of each of the domain's columns, -1 for one the vector lacks."""
        return [self._place.get(prefix + column, -1) for column in domain.columns]

    def _blank(self, is_shared: bool) -> dict[str, list[float]]:
        """Return for each method the vector it starts from.

        Neutral, but for shared flags of a subset (a site, say) that the method can never
        have: it does not have it, so the flag is 0.
        """
        blank = {}
        for part in self._parts.values():
            row = [NEUTRAL] * len(self.names)
            if is_shared:
                subsets = [d for d in part.all_domains.values() if isinstance(d, SubsetDomain)]
                for domain in subsets:
                    for place, name in enumerate(self.names):
                        if name.startswith(f"{domain.name}:") and name not in domain.columns:
                            row[place] = 0.0
            blank[part.name] = row
        return blank

    def encode(self, configurations: Sequence[Configuration]) -> NDArray[np.float64]:
        """Return the ``n x d`` matrix of the configurations."""
        rows = [self._row(configuration) for configuration in configurations]
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(self.names))

    def _row(self, configuration: Configuration) -> list[float]:
        modules = configuration.modules
        row = self._template[modules[0].method].copy()
        if not self._methods.is_constant:
            # The methods' flags are the first columns.
            row[: len(self._methods.values)] = self._methods.encode(configuration.methods)
        for module in modules:
            values = dict(module.settings)
            for name, domain, places in self._columns[module.method]:
                value = values.get(name, module.layers)
                for place, code in zip(places, domain.encode(value), strict=True):
                    if place >= 0:
                        row[place] = code
        if self._rate is not None:
            rates = self.learning_rates(configuration.methods)
            row[self._rate] = rates.position(configuration.learning_rate)
        return row

    def decode(self, X: ArrayLike) -> list[Configuration]:
        """Return the member nearest to each row of the ``n x d`` matrix.

        Raises:
            ValueError: another shape, or an entry that is not finite.
        """
        matrix = np.asarray(X, dtype=np.float64)
        if matrix.ndim != 2 or matrix.shape[1] != len(self.names):
            raise ValueError(f"X has shape {matrix.shape}, expected n x {len(self.names)}")
        if not np.isfinite(matrix).all():
            raise ValueError("X holds NaN or infinite entries, expected numbers in [0, 1]")
        return [self._configuration(row) for row in matrix.tolist()]

    def _configuration(self, row: list[float]) -> Configuration:
        methods = self._methods.default
        if not self._methods.is_constant:
            methods = self._methods.decode(row[: len(self._methods.values)])
        modules = []
        for method in methods:
            values = {
                name: domain.decode([row[place] if place >= 0 else NEUTRAL for place in places])
                for name, domain, places in self._columns[method]
            }
            modules.append(self._parts[method].module(values))
        position = NEUTRAL if self._rate is None else row[self._rate]
        rate = self.learning_rates(methods).at(position)
        return Configuration(modules=tuple(modules), learning_rate=rate)

    def learning_rates(self, methods: Sequence[str]) -> LearningRates:
        """Return what a configuration of these methods may be trained with."""
        if len(methods) == 1:
            return self._parts[methods[0]].learning_rates
        return LearningRates.middle([self._parts[name].learning_rates for name in methods])
