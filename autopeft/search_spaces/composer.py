"""From values of dimensions to configurations, and back: the one place that builds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from autopeft.search_spaces.composition import MethodSets
from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.search_spaces.part import LAYERS, LearningRates, Part
from autopeft.search_spaces.training_domain import NO_TRAINING, TrainingDomain

Values = Mapping[str, Mapping[str, Any]]


class Composer:
    """Build configurations that are members of a space, and tell what they were built from.

    Args:
        parts: The methods of the space by name.
        methods: Which sets of them a configuration may hold.
        shares_layers: Whether all methods that can be placed stand on the same layers. A
            method without a site there is left out of the configuration.
        training: The training settings that are searched.
    """

    def __init__(
        self,
        parts: Mapping[str, Part],
        methods: MethodSets,
        *,
        shares_layers: bool = False,
        training: TrainingDomain = NO_TRAINING,
    ) -> None:
        self.parts = parts
        self.methods = methods
        self.training = training
        self.sharing = frozenset(
            name
            for name, part in parts.items()
            if shares_layers and part.fixed is None and part.method.is_placeable
        )
        self._fixed = {part.fixed: name for name, part in parts.items() if part.fixed is not None}
        self._rates: dict[tuple[str, ...], LearningRates] = {}

    def learning_rates(self, names: Sequence[str]) -> LearningRates:
        """Return what a configuration of these parts may be trained with."""
        key = tuple(names)
        if key not in self._rates:
            self._rates[key] = LearningRates.middle([self.parts[n].learning_rates for n in key])
        return self._rates[key]

    def configuration(
        self, values: Values, position: float, training: Mapping[str, Any] = MappingProxyType({})
    ) -> Configuration:
        """Return the member that has these values.

        Args:
            values: For each part a value for each of its domains. Where layers are shared,
                the first one's hold for all.
            position: Where the learning rate lies in what the parts allow, in [0, 1].
            training: Values of the training settings that are searched; their defaults where
                they are missing. The nearest that the methods can be trained with are taken.
        """
        modules = self._shared(values) if self.sharing & values.keys() else {}
        modules |= {
            name: self.parts[name].module(given)
            for name, given in values.items()
            if name not in self.sharing
        }
        names = self.methods.sort(modules)
        return Configuration(
            modules=tuple(modules.values()),
            learning_rate=self.learning_rates(names).at(position),
            training=self.training.nearest(training, self.methods.mask(names)),
        )

    def _shared(self, values: Values) -> dict[str, Module]:
        """Return the modules that share layers; default layers where none has a site there."""
        names = [name for name in self.methods.values if name in values and name in self.sharing]
        given = values[names[0]][LAYERS]
        for layers in (given, self.parts[names[0]].layers.default):
            placed = {n: self.parts[n].placed({**values[n], LAYERS: layers}) for n in names}
            kept = {name: module for name, module in placed.items() if module is not None}
            if kept:
                return kept
        return {names[0]: self.parts[names[0]].module(values[names[0]])}

    def names(self, configuration: Configuration) -> tuple[str, ...]:
        """Return the names of the parts that a configuration is made of, sorted.

        An adapter taken as it is has a name of its own.
        """
        modules = configuration.modules
        if self._fixed and len(modules) == 1 and modules[0] in self._fixed:
            return (self._fixed[modules[0]],)
        return configuration.methods

    def position(self, configuration: Configuration) -> float:
        """Return where the learning rate lies in what the parts allow, in [0, 1]."""
        return self.learning_rates(self.names(configuration)).position(configuration.learning_rate)

    def values(self, configuration: Configuration) -> dict[str, dict[str, Any]]:
        """Return values that :meth:`configuration` builds the member from."""
        names = self.names(configuration)
        by_part = dict(zip(names, configuration.modules, strict=True))
        shared = {name: module for name, module in by_part.items() if name in self.sharing}
        found = {name: self.parts[name].values(module) for name, module in by_part.items()}
        if shared:
            for name, given in self._unshared(shared).items():
                found[name] = given
        return found

    def _unshared(self, modules: Mapping[str, Module]) -> dict[str, dict[str, Any]]:
        """Return values with the same layers for all that are these modules."""
        own = {name: self.parts[name].values(module) for name, module in modules.items()}
        for layers in self._common(modules, own):
            found = {name: {**given, LAYERS: layers} for name, given in own.items()}
            if all(self.parts[name].placed(found[name]) == modules[name] for name in modules):
                return found
        return own

    def _common(self, modules: Mapping[str, Module], own: Values) -> Iterator[tuple[int, ...]]:
        """Yield the sets of layers that may be what the modules share, likely ones first."""
        domain = self.parts[next(iter(modules))].layers
        together = tuple(sorted({n for module in modules.values() for n in module.layers}))
        if together in domain:
            yield together
        yield from dict.fromkeys(given[LAYERS] for given in own.values())
        yield from domain.allowed or ()

    def explain(self, configuration: Configuration) -> list[str]:
        """Return why a configuration is no member; nothing where it is one."""
        names = self.names(configuration)
        unknown = [name for name in names if name not in self.parts]
        if unknown:
            return [f"{name} is not in the space ({', '.join(self.parts)})" for name in unknown]
        if names not in self.methods:
            together = " + ".join(names) or "no method at all"
            return [f"{together} cannot be one configuration of this space"]
        reasons = []
        for name, module in zip(names, configuration.modules, strict=True):
            reasons += self.parts[name].explain(module)
        rates = self.learning_rates(names)
        if configuration.learning_rate not in rates:
            reasons.append(
                f"learning_rate is {configuration.learning_rate:g}, expected "
                f"{rates.low:g} to {rates.high:g}"
            )
        reasons += self.training.explain(configuration.training, self.methods.mask(names))
        if not reasons and self.sharing:
            values = self.values(configuration)
            layers = {given[LAYERS] for name, given in values.items() if name in self.sharing}
            if len(layers) > 1:
                reasons.append("the methods of this space stand on the same layers, these do not")
        return reasons
