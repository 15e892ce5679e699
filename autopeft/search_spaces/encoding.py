"""Configurations as points of the unit cube, for surrogates, and back.

One column for each method (a flag), one for the learning rate (log scale, relative to the
method's own range, so that "high for this method" means the same for all), and one or more
for each dimension. Methods that never stand in one configuration share the columns of
dimensions of the same name: one flag per layer, one per site. So a space with one method in
each configuration has one block of columns; where several can stand together each has its
own, or each family where the space takes one method of a family. The last columns are those of
the training settings that are searched. What does not apply is
:data:`~.domains.NEUTRAL`; dimensions with a single value have no column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autopeft.search_spaces.composer import Composer
from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.domains import NEUTRAL, Domain, SubsetDomain
from autopeft.search_spaces.part import LAYERS, LearningRates, Part


class Blocks:
    """Which columns, or coordinates, a dimension of a part shares with those of others.

    Args:
        groups: Name of the block of each part; "" is a block without a name.
        sharing: Parts that stand on the same layers.
    """

    def __init__(self, groups: Mapping[str, str], sharing: frozenset[str]) -> None:
        self._groups = groups
        self._sharing = sharing

    def prefix(self, part: str, dimension: str) -> str:
        """Return what stands before the names of a dimension's columns."""
        group = self._groups[part]
        if not group or (dimension == LAYERS and part in self._sharing):
            return ""
        return f"{group}."


class Encoding:
    """Translate between configurations and vectors.

    Args:
        composer: The parts of the space, and how they make a configuration.
        blocks: Which parts share columns (never two in one configuration).
    """

    def __init__(self, composer: Composer, blocks: Blocks) -> None:
        self._composer = composer
        self._methods = composer.methods
        self._blocks = blocks
        parts = composer.parts
        names = [] if self._methods.is_constant else list(self._methods.columns)
        if not all(part.learning_rates.is_constant for part in parts.values()):
            names.append("learning_rate")
        for part in parts.values():
            for name, domain in part.all_domains.items():
                if not domain.is_constant:
                    prefix = blocks.prefix(part.name, name)
                    names += [prefix + column for column in domain.columns]
        self._training = composer.training
        self.names = (*dict.fromkeys(names), *self._training.columns)
        self._place = {name: place for place, name in enumerate(self.names)}
        self._rate = self._place.get("learning_rate")
        self._columns = {name: self._columns_of(part) for name, part in parts.items()}
        self._foreign = {name: self._foreign_of(part) for name, part in parts.items()}

    def _columns_of(self, part: Part) -> list[tuple[str, Domain, list[int]]]:
        """Return the domains that vary, with the places of their columns."""
        found = []
        for name, domain in part.all_domains.items():
            prefix = self._blocks.prefix(part.name, name)
            places = [self._place.get(prefix + column, -1) for column in domain.columns]
            found.append((name, domain, places))
        return found

    def _foreign_of(self, part: Part) -> list[tuple[str, int, frozenset[str]]]:
        """Return the flags of other parts that tell of this part's subsets too.

        Each with the domain's name, its place and the values that it stands for.
        """
        found = []
        for name, domain in part.all_domains.items():
            if isinstance(domain, SubsetDomain):
                prefix = self._blocks.prefix(part.name, name)
                start = f"{prefix}{domain.name}:"
                own = set() if domain.is_constant else {prefix + c for c in domain.columns}
                found += [
                    (name, place, frozenset(column.removeprefix(start).split("+")))
                    for column, place in self._place.items()
                    if column.startswith(start) and column not in own
                ]
        return found

    def encode(self, configurations: Sequence[Configuration]) -> NDArray[np.float64]:
        """Return the ``n x d`` matrix of the configurations."""
        matrix = np.full((len(configurations), len(self.names)), NEUTRAL)
        for row, configuration in zip(matrix, configurations, strict=True):
            for place, code in self._codes(configuration).items():
                row[place] = code
        return matrix

    def _codes(self, configuration: Configuration) -> dict[int, float]:
        """Return the entries of a row that are not neutral, by place."""
        values = self._composer.values(configuration)
        codes: dict[int, float] = {}
        if not self._methods.is_constant:
            # The methods' flags are the first columns.
            codes.update(enumerate(self._methods.encode(tuple(values))))
        for part, given in values.items():
            for name, place, items in self._foreign[part]:
                codes[place] = float(items <= set(map(str, given[name])))
        for part, given in values.items():
            for name, domain, places in self._columns[part]:
                if places and places[0] >= 0 and not domain.is_constant:
                    codes.update(zip(places, domain.encode(given[name]), strict=True))
        if self._rate is not None:
            codes[self._rate] = self._composer.position(configuration)
        first = len(self.names) - len(self._training.columns)
        codes.update(enumerate(self._training.encode(configuration.training), start=first))
        return codes

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
            methods = self._methods.decode(row[: len(self._methods.columns)])
        values: dict[str, dict[str, Any]] = {
            method: {
                name: domain.default
                if domain.is_constant
                else domain.decode([row[place] for place in places])
                for name, domain, places in self._columns[method]
            }
            for method in methods
        }
        position = NEUTRAL if self._rate is None else row[self._rate]
        training = self._training.decode(row[len(row) - len(self._training.columns) :])
        return self._composer.configuration(values, position, training)

    def learning_rates(self, methods: Sequence[str]) -> LearningRates:
        """Return what a configuration of these methods may be trained with."""
        return self._composer.learning_rates(methods)
