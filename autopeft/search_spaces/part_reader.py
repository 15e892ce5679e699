"""What a user may write about one method of a space: its dimensions, placement and rates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from autopeft.naming import did_you_mean
from autopeft.records import ModelShape
from autopeft.search_spaces.deploy import deployable
from autopeft.search_spaces.domains import Domain, SubsetDomain, ValueDomain, domain_of
from autopeft.search_spaces.method import Deploy, Dimension, Method
from autopeft.search_spaces.part import SITES, LearningRates, Part
from autopeft.search_spaces.placement import KINDS, Kind, LayerDomain, named_layers
from autopeft.search_spaces.targets import SITE_GROUPS

_PLACEMENT = "placement"
_RATE = "learning_rate"
_AT_WIDTH = frozenset({"at_width", "values"})
_NUM_DRAWS = 64
_KRONECKER = (math.sqrt(5.0) - 1.0) / 2.0


class PartReader:
    """Read the methods of one space.

    Args:
        shape: The model.
        problems: Mistakes are added here, each naming the key it stands under.
        notes: What is left out, and why, is added here.
        defaults: ``placement`` and ``sites`` for methods that do not say otherwise.
        deploy: Where adapters are to run, None where it does not matter.
        is_model_known: Whether ``shape`` is the job's own model: only then is a method that
            cannot be used on it a mistake.
    """

    def __init__(
        self,
        shape: ModelShape,
        *,
        problems: list[str],
        notes: list[str],
        defaults: Mapping[str, Any] | None = None,
        deploy: Deploy | None = None,
        is_model_known: bool = True,
    ) -> None:
        self.shape = shape
        self.problems = problems
        self.notes = notes
        self.defaults = dict(defaults or {})
        self.deploy = deploy
        self.is_model_known = is_model_known

    def part(self, method: Method, settings: Any, *, is_optional: bool) -> Part | None:
        """Return a method as a part of the space; None after a problem or a note.

        Args:
            method: The method.
            settings: What stands under its name.
            is_optional: Whether it may be left out where it cannot be used.
        """
        where = f"methods.{method.name}"
        settings = {} if settings is None else settings
        if not isinstance(settings, Mapping):
            self.problems.append(f"{where}: expected its dimensions, got {shown(settings)}")
            return None
        reason = method.unavailable(self.shape)
        if reason is None:
            before = len(self.problems)
            try:
                found = self._dimensions(method)
                if is_optional and self.is_model_known:
                    # A preset names what some models lack, such as biases of normalisations.
                    have = {_PLACEMENT, _RATE, *(dimension.name for dimension in found)}
                    settings = {key: settings[key] for key in settings if key in have}
                part = self._part(method, found, settings, where)
            except ValueError as error:
                reason = str(error)
            else:
                if part is not None or not (is_optional and self.is_model_known):
                    return part
                reason = self.problems[before].removeprefix(f"{where}.")
                del self.problems[before:]
        if self.is_model_known:
            (self.notes if is_optional else self.problems).append(
                f"{method.name} left out: {reason}"
            )
        return None

    def _dimensions(self, method: Method) -> tuple[Dimension, ...]:
        if self.deploy is None or not self.is_model_known:
            return method.dimensions(self.shape)
        dimensions, cut = deployable(method, self.shape, self.deploy)
        if cut:
            self.notes.append(f"{method.name}: {'; '.join(cut)} (deploy: {self.deploy})")
        return dimensions

    def _part(
        self, method: Method, listed: Sequence[Dimension], given: Mapping[str, Any], where: str
    ) -> Part | None:
        before = len(self.problems)
        dimensions = {dimension.name: dimension for dimension in listed}
        valid = [*dimensions, _PLACEMENT, _RATE]
        for key in given:
            if key not in valid:
                self.problems.append(f"{where}.{key}: unknown key{did_you_mean(str(key), valid)}")
        settings = dict(given)
        if SITES in self.defaults and SITES in dimensions:
            settings.setdefault(SITES, self._default_sites(dimensions[SITES]))
        if _PLACEMENT in self.defaults and method.is_placeable:
            settings.setdefault(_PLACEMENT, self.defaults[_PLACEMENT])
        domains: dict[str, Domain] = {}
        for key in sorted(dimensions):
            domain = self._domain(dimensions[key], settings, f"{where}.{key}")
            if domain is not None:
                domains[key] = domain
        layers = self._layers(method, settings, f"{where}.{_PLACEMENT}")
        rates = self._rates(method, settings, f"{where}.{_RATE}")
        if len(self.problems) > before or layers is None or rates is None:
            return None
        part = Part(
            method=method, shape=self.shape, domains=domains, layers=layers, learning_rates=rates
        )
        part.check()
        if self.deploy == "merged":
            _check_merges(part, self.shape)
        return part

    def _default_sites(self, dimension: Dimension) -> Any:
        """Return the space's sites as far as a method has them; all subsets if it has none."""
        given = self.defaults[SITES]
        if dimension.kind != "subset":
            return list(dimension.values)
        if isinstance(given, list) and given and all(isinstance(each, list) for each in given):
            kept = [_known(dimension, each) for each in given]
            return [each for each in kept if each] or list(dimension.values)
        items = given if isinstance(given, list) else [given]
        return _known(dimension, items) or list(dimension.values)

    def _domain(
        self, dimension: Dimension, settings: Mapping[str, Any], where: str
    ) -> Domain | None:
        if dimension.name not in settings:
            return domain_of(dimension)
        given = settings[dimension.name]
        if dimension.kind == "subset":
            return self._subset(dimension, given, where)
        if isinstance(given, Mapping) and given.keys() == _AT_WIDTH:
            given = self._scaled(dimension, given, where)
            if given is None:
                return None
        values = self._members(dimension, given, where)
        return ValueDomain(dimension, values) if values else None

    def _scaled(
        self, dimension: Dimension, given: Mapping[str, Any], where: str
    ) -> list[Any] | None:
        """Return the members nearest in ratio to sizes written for another width."""
        width, sizes = given["at_width"], given["values"]
        sizes = sizes if isinstance(sizes, list) else [sizes]
        members = [value for value in dimension.values if _is_positive(value)]
        if not _is_positive(width) or not sizes or not all(map(_is_positive, sizes)):
            self.problems.append(f"{where}: expected at_width and values above 0")
            return None
        if not members:
            self.problems.append(f"{where}: {dimension.name} is no number that grows with width")
            return None
        wanted = [size * self.shape.hidden_size / width for size in sizes]
        return [min(members, key=lambda value: abs(math.log(value / size))) for size in wanted]

    def _subset(self, dimension: Dimension, given: Any, where: str) -> Domain | None:
        if given == "all":
            given = [list(dimension.values)]
        default = _tuple(dimension.default)
        if isinstance(given, list) and given and all(isinstance(each, list) for each in given):
            subsets = [self._members(dimension, each, where) for each in given]
            chosen = [subset for subset in subsets if subset]
            if len(chosen) < len(given):
                return None
            values = [v for v in dimension.values if any(v in subset for subset in chosen)]
            return SubsetDomain(dimension.name, values, allowed=chosen, default=default)
        values = list(self._members(dimension, given, where))
        if not values:
            return None
        return SubsetDomain(dimension.name, values, default=default)

    def _members(self, dimension: Dimension, given: Any, where: str) -> tuple[Any, ...]:
        """Return the declared values that were named, in order; nothing after a problem."""
        items = given if isinstance(given, list) else [given]
        if dimension.name == SITES:
            items = _ungrouped(dimension, items)
        expected = ", ".join(_plain(value) for value in dimension.values)
        if not items:
            self.problems.append(f"{where}: empty; expected some of {expected}")
        found = []
        for item in items:
            match = [v for v in dimension.values if _is_same(item, v)]
            if match:
                found.append(match[0])
                continue
            names = [v for v in dimension.values if isinstance(v, str)]
            if isinstance(item, str) and names:
                self.problems.append(
                    f"{where}: {shown(item)} is unknown{did_you_mean(item, names)}"
                )
            else:
                self.problems.append(f"{where}: {shown(item)} is none of {expected}")
        if len(found) < len(items):
            return ()
        return tuple(value for value in dimension.values if value in found)

    def _layers(
        self, method: Method, settings: Mapping[str, Any], where: str
    ) -> LayerDomain | None:
        kinds: tuple[Kind, ...] = KINDS if method.is_placeable else ("all",)
        given = settings.get(_PLACEMENT, list(kinds))
        items = given if isinstance(given, list) else [given]
        before = len(self.problems)
        chosen: list[Kind] = []
        named: dict[str, tuple[int, ...]] = {}
        for item in items:
            if item in kinds:
                chosen.append(item)
            elif not method.is_placeable:
                self.problems.append(f"{where}: {method.name} always stands on all layers")
            else:
                try:
                    name, layers = named_layers(
                        self.shape, item, is_model_known=self.is_model_known
                    )
                    named[name] = layers
                except ValueError as error:
                    self.problems.append(f"{where}: {error}")
        if not items:
            self.problems.append(f"{where}: empty; expected some of {', '.join(kinds)}")
        if len(self.problems) > before:
            return None
        return LayerDomain(self.shape.num_layers, chosen, named)

    def _rates(
        self, method: Method, settings: Mapping[str, Any], where: str
    ) -> LearningRates | None:
        declared = LearningRates.of(method.learning_rate)
        if "learning_rate" not in settings:
            return declared
        given = settings["learning_rate"]
        form = "expected a number, [low, high] or {low: ..., high: ..., default: ...}"
        ends: list[Any]
        default: Any = None
        if isinstance(given, Mapping):
            valid = ("low", "high", "default")
            for key in given:
                if key not in valid:
                    hint = did_you_mean(str(key), valid)
                    self.problems.append(f"{where}.{key}: unknown key{hint}")
            ends = [given.get("low", declared.low), given.get("high", declared.high)]
            default = given.get("default")
        else:
            ends = list(given) if isinstance(given, list) else [given, given]
        if len(ends) != 2:
            self.problems.append(f"{where}: {form}, got {shown(given)}")
            return None
        low, high = (_rate(end) for end in ends)
        if low is None or high is None:
            self.problems.append(f"{where}: {form}, each above 0 and at most 1, got {shown(given)}")
            return None
        if low > high:
            self.problems.append(f"{where}: low ({low:g}) is above high ({high:g})")
            return None
        middle = min(max(declared.default, low), high) if default is None else _rate(default)
        if middle is None or not low <= middle <= high:
            self.problems.append(
                f"{where}.default: {shown(default)} is not between {low:g} and {high:g}"
            )
            return None
        return LearningRates(low=low, default=middle, high=high)


def _check_merges(part: Part, shape: ModelShape) -> None:
    """Make sure that whatever the part holds merges, as far as a spread of draws can tell.

    Raises:
        ValueError: it depends on several settings together.
    """
    domains = part.all_domains
    for draw in range(_NUM_DRAWS):
        # A Kronecker sequence in as many coordinates as the domains read: even and cheap.
        coordinates = iter(_KRONECKER * (draw + 1) * (k + 1) % 1.0 for k in range(10**6))
        values = {
            name: domain.draw([next(coordinates) for _ in range(domain.num_coordinates)])
            for name, domain in domains.items()
        }
        if not part.method.can_merge(shape, part.module(values)):
            raise ValueError("whether it merges depends on several settings together")


def _known(dimension: Dimension, items: Iterable[Any]) -> list[Any]:
    return [item for item in _ungrouped(dimension, items) if item in dimension.values]


def _ungrouped(dimension: Dimension, items: Iterable[Any]) -> list[Any]:
    """Return the sites with the words for groups spelt out, as far as the method has them.

    A group of which it has none stays as it is.
    """
    found: list[Any] = []
    for item in items:
        group: tuple[str, ...] = ()
        if item == "all":
            group = dimension.values
        elif isinstance(item, str) and item in SITE_GROUPS:
            group = tuple(value for value in dimension.values if value in SITE_GROUPS[item])
        found += group or [item]
    return found


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _rate(value: Any) -> float | None:
    """Return a learning rate; YAML 1.1 reads ``1e-3`` (no dot) as text, so texts are tried."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        rate = float(f"{float(value):.6g}")
    except ValueError:
        return None
    return rate if math.isfinite(rate) and 0.0 < rate <= 1.0 else None


def _is_same(given: Any, value: Any) -> bool:
    if isinstance(given, bool) or isinstance(value, bool):
        return given is value
    return bool(given == value)


def _tuple(value: Any) -> tuple[Any, ...]:
    assert isinstance(value, tuple)
    return value


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def shown(value: Any) -> str:
    """Return a value as a message shows it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
