"""Neighbours of a configuration: one or two of its dimensions changed a little."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from autopeft.search_spaces.composer import Composer
from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.part import LAYERS
from autopeft.search_spaces.prior import Prior

#: Standard deviation of a step of the learning rate, as a part of its range on a log scale.
LEARNING_RATE_STEP = 0.12
#: How often a second dimension changes too.
SECOND_CHANGE = 0.4


class Mutation:
    """Draw neighbours inside one space."""

    def __init__(self, composer: Composer, prior: Prior) -> None:
        self._composer = composer
        self._methods = composer.methods
        self._prior = prior
        self._training = composer.training

    def change(self, configuration: Configuration, generator: np.random.Generator) -> Configuration:
        """Return a configuration with one or two dimensions changed; rarely the same one."""
        changed = self._change_one(configuration, generator)
        if generator.random() < SECOND_CHANGE:
            changed = self._change_one(changed, generator)
        return changed

    def _change_one(
        self, configuration: Configuration, generator: np.random.Generator
    ) -> Configuration:
        choices: list[tuple[str, str]] = []
        names = self._composer.names(configuration)
        rates = self._composer.learning_rates(names)
        if not rates.is_constant:
            choices.append(("", "learning_rate"))
        if not self._methods.is_constant:
            choices.append(("", "method"))
        for part in names:
            domains = self._composer.parts[part].all_domains
            choices += [(part, name) for name, d in domains.items() if not d.is_constant]
        choices += [("", name) for name in self._training.varied]
        if not choices:
            return configuration
        part, name = choices[int(generator.integers(len(choices)))]
        place = rates.position(configuration.learning_rate)
        if name == "learning_rate":
            rate = rates.at(place + generator.normal(0.0, LEARNING_RATE_STEP))
            return replace(configuration, learning_rate=rate)
        if not part and name in self._training.varied:
            mask = self._methods.mask(names)
            training = self._training.neighbour(configuration.training, name, generator, mask)
            return replace(configuration, training=training)
        values = self._composer.values(configuration)
        if name == "method":
            values = self._other_methods(values, generator)
        else:
            domain = self._composer.parts[part].all_domains[name]
            values[part][name] = domain.neighbour(values[part][name], generator)
            if name == LAYERS and part in self._composer.sharing:
                for other in self._composer.sharing & values.keys():
                    values[other][LAYERS] = values[part][LAYERS]
        changed = self._composer.configuration(values, place, dict(configuration.training))
        if self._composer.names(changed) != names:
            return changed
        return replace(changed, learning_rate=configuration.learning_rate)

    def _other_methods(
        self, values: dict[str, dict[str, Any]], generator: np.random.Generator
    ) -> dict[str, dict[str, Any]]:
        """Add, drop or swap a method; layers, sites and the relative learning rate carry over."""
        methods = self._methods.neighbour(tuple(values), generator)
        known: dict[str, Any] = {}
        for given in values.values():
            known.update(given)
        u = generator.random(self._prior.num_coordinates).tolist()
        found = {}
        for method in methods:
            if method in values:
                found[method] = values[method]
                continue
            found[method] = self._prior.values(method, u)
            for name, domain in self._composer.parts[method].all_domains.items():
                if name in known:
                    found[method][name] = domain.nearest(known[name])
        return found
