"""Neighbours of a configuration: one or two of its dimensions changed a little."""

from __future__ import annotations

from typing import Any

import numpy as np

from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.domains import SubsetDomain
from autopeft.search_spaces.encoding import Encoding
from autopeft.search_spaces.part import Part
from autopeft.search_spaces.prior import Prior

#: Standard deviation of a step of the learning rate, as a part of its range on a log scale.
LEARNING_RATE_STEP = 0.12
#: How often a second dimension changes too.
SECOND_CHANGE = 0.4


class Mutation:
    """Draw neighbours inside one space."""

    def __init__(
        self, parts: dict[str, Part], methods: SubsetDomain, encoding: Encoding, prior: Prior
    ) -> None:
        self._parts = parts
        self._methods = methods
        self._encoding = encoding
        self._prior = prior

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
        rates = self._encoding.learning_rates(configuration.methods)
        if not rates.is_constant:
            choices.append(("", "learning_rate"))
        if not self._methods.is_constant:
            choices.append(("", "method"))
        for method in configuration.methods:
            domains = self._parts[method].all_domains
            choices += [(method, name) for name, d in domains.items() if not d.is_constant]
        if not choices:
            return configuration
        method, name = choices[int(generator.integers(len(choices)))]
        if name == "learning_rate":
            place = rates.position(configuration.learning_rate)
            rate = rates.at(place + generator.normal(0.0, LEARNING_RATE_STEP))
            return Configuration(modules=configuration.modules, learning_rate=rate)
        if name == "method":
            return self._change_methods(configuration, generator)
        part = self._parts[method]
        modules = tuple(
            part.module(_with(part, module, name, generator)) if module.method == method else module
            for module in configuration.modules
        )
        return Configuration(modules=modules, learning_rate=configuration.learning_rate)

    def _change_methods(
        self, configuration: Configuration, generator: np.random.Generator
    ) -> Configuration:
        """Add, drop or swap a method; layers, sites and the relative learning rate carry over."""
        methods = self._methods.neighbour(configuration.methods, generator)
        kept = {module.method: module for module in configuration.modules}
        known: dict[str, Any] = {}
        for module in configuration.modules:
            known.update(self._parts[module.method].values(module))
        u = generator.random(self._prior.num_coordinates).tolist()
        modules = []
        for method in methods:
            if method in kept:
                modules.append(kept[method])
                continue
            part = self._parts[method]
            values = self._prior.values(method, u)
            for name, domain in part.all_domains.items():
                if name in known:
                    values[name] = domain.nearest(known[name])
            modules.append(part.module(values))
        place = self._encoding.learning_rates(configuration.methods).position(
            configuration.learning_rate
        )
        rate = self._encoding.learning_rates(methods).at(place)
        return Configuration(modules=tuple(modules), learning_rate=rate)


def _with(part: Part, module: Any, name: str, generator: np.random.Generator) -> dict[str, Any]:
    values = part.values(module)
    values[name] = part.all_domains[name].neighbour(values[name], generator)
    return values
