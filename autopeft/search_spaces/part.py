"""One method inside a space: its restricted dimensions, layers and learning rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.domains import Domain
from autopeft.search_spaces.method import LearningRateRange, Method
from autopeft.search_spaces.placement import LayerDomain

LAYERS = "layer"


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningRates:
    """Learning rates that may be tried; ``low == high`` fixes it.

    Attributes:
        low: Smallest, kept to six significant digits like every learning rate.
        default: A good one where nothing is known.
        high: Largest.
    """

    low: float
    default: float
    high: float

    @classmethod
    def of(cls, given: LearningRateRange) -> LearningRates:
        """Take over what a method declares."""
        return cls(low=_six(given.low), default=_six(given.default), high=_six(given.high))

    @classmethod
    def middle(cls, ranges: Sequence[LearningRates]) -> LearningRates:
        """Return the geometric middle of several ranges: one optimiser trains them all."""
        if len(ranges) == 1:
            return ranges[0]

        def mean(values: Sequence[float]) -> float:
            return _six(math.exp(math.fsum(map(math.log, values)) / len(values)))

        return cls(
            low=mean([each.low for each in ranges]),
            default=mean([each.default for each in ranges]),
            high=mean([each.high for each in ranges]),
        )

    @property
    def is_constant(self) -> bool:
        """Whether there is only one."""
        return self.low == self.high

    def at(self, position: float) -> float:
        """Return the rate at a position in [0, 1] on a log scale."""
        position = min(max(position, 0.0), 1.0)
        rate = math.exp(math.log(self.low) + position * math.log(self.high / self.low))
        return min(max(_six(rate), self.low), self.high)

    def position(self, rate: float) -> float:
        """Return where a rate lies between the ends, in [0, 1] on a log scale; 0.5 if fixed."""
        if self.is_constant:
            return 0.5
        place = math.log(rate / self.low) / math.log(self.high / self.low)
        return min(max(place, 0.0), 1.0)

    def __contains__(self, rate: float) -> bool:
        return self.low <= rate <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One method inside a space.

    Attributes:
        method: The method.
        domains: Its dimensions by name, in order of name.
        layers: Where it may stand.
        learning_rates: What it may be trained with.
    """

    method: Method
    domains: Mapping[str, Domain]
    layers: LayerDomain
    learning_rates: LearningRates

    @property
    def name(self) -> str:
        """Name of the method."""
        return self.method.name

    @property
    def all_domains(self) -> Mapping[str, Domain]:
        """The layers and the method's dimensions, by name."""
        return {LAYERS: self.layers, **self.domains}

    def module(self, values: Mapping[str, Any]) -> Module:
        """Build the module with a value for each of :attr:`all_domains`, in canonical form."""
        settings = {name: values[name] for name in self.domains}
        same = self.method.canonical(settings)
        if same is not settings and all(same[name] in self.domains[name] for name in self.domains):
            settings = dict(same)
        ordered = tuple((name, settings[name]) for name in self.domains)
        return Module(method=self.name, layers=values[LAYERS], settings=ordered)

    def values(self, module: Module) -> dict[str, Any]:
        """Return what :meth:`module` builds the module from."""
        return {LAYERS: module.layers, **module.as_dict()}

    def explain(self, module: Module) -> list[str]:
        """Return why a module is none of this part's; nothing where it is."""
        reasons = []
        settings = module.as_dict()
        for name in sorted(set(settings) - set(self.domains)):
            reasons.append(f"{self.name} has no setting {name!r}")
        for name, domain in self.domains.items():
            if name not in settings:
                reasons.append(f"{self.name} needs a value for {name}")
            elif settings[name] not in domain:
                reasons.append(
                    f"{self.name}: {name} is {settings[name]!r}, expected {domain.describe()}"
                )
        if module.layers not in self.layers:
            reasons.append(
                f"{self.name}: layers {list(module.layers)} cannot be reached by placement "
                f"{self.layers.describe()} on {self.layers.num_layers} layers"
            )
        if not reasons and self.module(self.values(module)) != module:
            reasons.append(
                f"{self.name}: trains identically to {self.module(self.values(module)).settings}"
            )
        return reasons


def _six(rate: float) -> float:
    return float(f"{rate:.6g}")
