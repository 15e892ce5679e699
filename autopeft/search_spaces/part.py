"""One method inside a space: its restricted dimensions, layers and learning rates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.domains import Domain, SubsetDomain
from autopeft.search_spaces.method import LearningRateRange, Method
from autopeft.search_spaces.placement import LayerDomain

LAYERS = "layer"
SITES = "sites"


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
        shape: The model.
        domains: Its dimensions by name, in order of name.
        layers: Where it may stand.
        learning_rates: What it may be trained with.
        fixed: The only module it may be, inside or outside of ``domains``: a published
            adapter taken as it is.
        label: What tells it from other parts of the method; the method's name where "".
    """

    method: Method
    shape: ModelShape
    domains: Mapping[str, Domain]
    layers: LayerDomain
    learning_rates: LearningRates
    fixed: Module | None = None
    label: str = ""
    _masks: dict[str, tuple[int, bool]] = field(default_factory=dict, init=False, repr=False)
    _sources: dict[Module, dict[str, Any]] = field(default_factory=dict, init=False, repr=False)

    @property
    def name(self) -> str:
        """Name inside the space."""
        return self.label or self.method.name

    @property
    def all_domains(self) -> Mapping[str, Domain]:
        """The layers and the method's dimensions, by name."""
        return {LAYERS: self.layers, **self.domains}

    def module(self, values: Mapping[str, Any]) -> Module:
        """Build the module with a value for each of :attr:`all_domains`, in canonical form.

        Layers that have none of the chosen sites are left out, and sites that none of the
        chosen layers has. Where nothing is left, the module moves to the part's default
        layers, and if those have none of the sites either, to its first sites and layers that
        go together.

        Raises:
            ValueError: no site of the part stands in any of its layers.
        """
        if self.fixed is not None:
            return self.fixed
        found = self.placed(values)
        if found is None:
            found = self.placed({**values, LAYERS: self.layers.default})
        if found is None:
            found = self.placed({**values, **self._first_place()})
        assert found is not None
        return found

    def placed(self, values: Mapping[str, Any]) -> Module | None:
        """Return the module in canonical form, None where no site stands in the layers."""
        if self.fixed is not None:
            return self.fixed
        settings = {name: values[name] for name in self.domains}
        layers = values[LAYERS]
        names = self.method.site_names(settings)
        if names is not None and self.method.is_placeable:
            kept, layers = self._crossed(names, layers)
            if not kept:
                return None
            if len(kept) < len(names) and settings.get(SITES) == names:
                settings[SITES] = kept
        same = self.method.canonical(settings)
        if same is not settings and all(
            same[name] == settings[name] or same[name] in self.domains[name]
            for name in self.domains
        ):
            settings = dict(same)
        ordered = tuple((name, settings[name]) for name in self.domains)
        return Module(method=self.method.name, layers=layers, settings=ordered)

    def values(self, module: Module) -> dict[str, Any]:
        """Return members of :attr:`all_domains` that :meth:`module` builds the module from.

        Where there are none, the module's own values.
        """
        own: dict[str, Any] = {LAYERS: module.layers, **module.as_dict()}
        if self.fixed is not None:
            return {LAYERS: self.layers.default}
        if own.get(SITES, ()) in self.domains.get(SITES, _ANYTHING) and own[LAYERS] in self.layers:
            return own
        if module not in self._sources:
            self._sources[module] = next(self._origins(module, own), own)
        return dict(self._sources[module])

    def _origins(self, module: Module, own: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the values with more layers or sites that are the same module."""
        sites = self.domains.get(SITES)
        for layers in _holding(self.layers, own[LAYERS]):
            for names in _holding(sites, own[SITES]) if sites and SITES in own else [None]:
                values = own | {LAYERS: layers} | ({} if names is None else {SITES: names})
                if all(name in values for name in self.domains) and self.placed(values) == module:
                    yield values

    def explain(self, module: Module) -> list[str]:
        """Return why a module is none of this part's; nothing where it is."""
        if self.fixed is not None:
            return [] if module == self.fixed else [f"{self.name} is another module"]
        reasons = []
        settings = self.values(module)
        layers = settings.pop(LAYERS)
        for name in sorted(set(settings) - set(self.domains)):
            reasons.append(f"{self.method.name} has no setting {name!r}")
        for name, domain in self.domains.items():
            if name not in settings:
                reasons.append(f"{self.method.name} needs a value for {name}")
            elif settings[name] not in domain:
                reasons.append(
                    f"{self.method.name}: {name} is {settings[name]!r}, "
                    f"expected {domain.describe()}"
                )
        if layers not in self.layers:
            reasons.append(
                f"{self.method.name}: layers {list(layers)} cannot be reached by placement "
                f"{self.layers.describe()} on {self.layers.num_layers} layers"
            )
        if not reasons and self.module({LAYERS: layers, **settings}) != module:
            same = self.module({LAYERS: layers, **settings})
            reasons.append(
                f"{self.method.name}: trains identically to {same.settings} "
                f"on layers {list(same.layers)}"
            )
        return reasons

    def _crossed(
        self, names: tuple[str, ...], layers: tuple[int, ...]
    ) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Return the sites that some of the layers have, and the layers that have some of them.

        Where only sites outside the layers are left, the layers make no difference: the
        default ones.
        """
        chosen = sum(1 << layer for layer in layers)
        kept, own, is_inside = [], 0, False
        for name in names:
            mask, is_outside = self._where(name)
            if is_outside or mask & chosen:
                kept.append(name)
                own |= mask
                is_inside = is_inside or bool(mask & chosen)
        if not is_inside:
            return tuple(kept), self.layers.default
        if own & chosen != chosen:
            layers = tuple(layer for layer in layers if own >> layer & 1)
        return tuple(kept), layers

    def _where(self, name: str) -> tuple[int, bool]:
        """Return the layers that have a site, as bits, and whether it stands outside of them."""
        if name not in self._masks:
            mask, is_outside = 0, False
            for site in self.shape.sites_called(name):
                is_outside = is_outside or not site.is_in_layers
                if site.is_in_layers:
                    every = range(self.shape.num_layers)
                    mask |= sum(1 << layer for layer in site.layers_among(every))
            self._masks[name] = mask, is_outside
        return self._masks[name]

    def _first_place(self) -> dict[str, Any]:
        """Return sites and layers of the part that go together."""
        plain = {name: domain.default for name, domain in self.domains.items()}
        sites = self.domains.get(SITES)
        layer_sets = [self.layers.default, *(self.layers.allowed or ())]
        subsets = [None] if sites is None else [sites.default, *_single(sites)]
        for layers in layer_sets:
            for names in subsets:
                values = {LAYERS: layers} | ({} if names is None else {SITES: names})
                if self.placed({**plain, **values}) is not None:
                    return values
        raise ValueError(
            f"none of its sites stands in the layers of placement {self.layers.describe()}"
        )

    def check(self) -> None:
        """Make sure that the part holds a module.

        Raises:
            ValueError: no site of the part stands in any of its layers.
        """
        if self.fixed is None:
            self._first_place()


class _Anything:
    def __contains__(self, value: object) -> bool:
        return True


_ANYTHING = _Anything()


def _single(sites: Domain) -> list[tuple[str, ...]]:
    """Return the smallest subsets a domain allows."""
    assert isinstance(sites, SubsetDomain)
    return list(sites.allowed or [(value,) for value in sites.values])


def _holding(domain: Domain, subset: tuple[Any, ...]) -> Iterator[Any]:
    """Yield the members of a domain of subsets that hold all of one, itself first."""
    assert isinstance(domain, SubsetDomain)
    if subset in domain:
        yield subset
    for member in domain.allowed or ():
        if member != subset and set(subset) <= set(member):
            yield member


def _six(rate: float) -> float:
    return float(f"{rate:.6g}")
