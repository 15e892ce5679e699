"""What a user may write about a space, checked against one model; all problems at once.

A space file names methods and restricts what it wants restricted::

    combine: one                      # one method in each configuration, or any set of them
    methods:
      lora:
        rank: [4, 8, 16]              # some of the values
        sites: [q, v]                 # any non-empty subset of these; [[q, v]]: exactly these
        dora: false                   # one value
        placement: [all, last]        # all, last, range, free
        learning_rate: [2.0e-4, 1.0e-2]
      ia3:                            # everything it offers
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autopeft.errors import InvalidSpaceError
from autopeft.naming import did_you_mean
from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.domains import Domain, SubsetDomain, ValueDomain, domain_of
from autopeft.search_spaces.method import METHODS, Dimension, Method, get_method
from autopeft.search_spaces.part import LearningRates, Part
from autopeft.search_spaces.placement import KINDS, Kind, LayerDomain
from autopeft.search_spaces.space_files import SpaceSpec, read_spec
from autopeft.search_spaces.targets import SITE_NAMES

_KEYS = ("combine", "description", "methods")
_COMBINE = ("one", "any")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedSpace:
    """A space that was found to be right for a model."""

    parts: tuple[Part, ...]
    combine: Literal["one", "any"]
    notes: tuple[str, ...]


def parse(spec: SpaceSpec, shape: ModelShape) -> ParsedSpace:
    """Check a space against a model.

    Raises:
        InvalidSpaceError: with every problem found, one line each.
    """
    reader = _Reader(shape, is_preset=spec.is_preset)
    parsed = reader.read(spec.data)
    if reader.problems or parsed is None:
        listed = "\n".join(f"  - {problem}" for problem in reader.problems)
        raise InvalidSpaceError(
            f"space {spec.name!r} does not work for {shape.name}:\n{listed}",
            hint="`autopeft spaces` shows the presets and what can be set",
        )
    return parsed


def space_problems(spec: str | Path | Mapping[str, Any], *, base: Path | None = None) -> list[str]:
    """Return what is wrong with a space as far as it shows without a model."""
    try:
        found = read_spec(spec, base=base)
    except InvalidSpaceError as error:
        return [error.message]
    reader = _Reader(_REFERENCE_SHAPE, is_preset=found.is_preset)
    reader.read(found.data)
    return reader.problems


class _Reader:
    """Read one space, collecting problems; each names the key it stands under."""

    def __init__(self, shape: ModelShape, *, is_preset: bool) -> None:
        self.shape = shape
        self.is_preset = is_preset
        self.problems: list[str] = []
        self.notes: list[str] = []

    def read(self, data: Any) -> ParsedSpace | None:
        if not isinstance(data, Mapping):
            self.problems.append(f"expected keys ({', '.join(_KEYS)}), got {_shown(data)}")
            return None
        self._unknown_keys(data, _KEYS, "")
        combine = data.get("combine", "one")
        if combine not in _COMBINE:
            hint = did_you_mean(str(combine), _COMBINE)
            self.problems.append(f"combine: {_shown(combine)} is neither 'one' nor 'any'{hint}")
            combine = "one"
        parts = [
            part
            for name, settings in self._methods(data).items()
            for part in [self._part(name, settings)]
            if part is not None
        ]
        if not parts and not self.problems:
            self.problems.append(f"methods: none of them can be used; {'; '.join(self.notes)}")
        if not parts:
            return None
        return ParsedSpace(parts=tuple(parts), combine=combine, notes=tuple(self.notes))

    def _unknown_keys(self, data: Mapping[Any, Any], valid: Sequence[str], where: str) -> None:
        for key in data:
            if key not in valid:
                hint = did_you_mean(str(key), valid)
                self.problems.append(f"{where}{key}: unknown key{hint}")

    def _methods(self, data: Mapping[str, Any]) -> dict[str, Any]:
        methods = data.get("methods")
        if isinstance(methods, str):
            methods = [methods]
        if isinstance(methods, list):
            methods = {str(name): None for name in methods}
        if not isinstance(methods, Mapping) or not methods:
            self.problems.append(
                f"methods: expected at least one of {', '.join(METHODS.names())}, "
                f"got {_shown(methods)}"
            )
            return {}
        self._unknown_keys(methods, METHODS.names(), "methods.")
        return {name: value for name, value in methods.items() if name in METHODS.names()}

    def _part(self, name: str, settings: Any) -> Part | None:
        method = get_method(name)
        where = f"methods.{name}"
        if settings is None:
            settings = {}
        if not isinstance(settings, Mapping):
            self.problems.append(f"{where}: expected its dimensions, got {_shown(settings)}")
            return None
        reason = method.unavailable(self.shape)
        if reason is not None:
            (self.notes if self.is_preset else self.problems).append(f"{name} left out: {reason}")
            return None
        before = len(self.problems)
        dimensions = {dimension.name: dimension for dimension in method.dimensions(self.shape)}
        self._unknown_keys(settings, [*dimensions, "placement", "learning_rate"], f"{where}.")
        domains: dict[str, Domain] = {}
        for key in sorted(dimensions):
            domain = self._domain(dimensions[key], settings, f"{where}.{key}")
            if domain is not None:
                domains[key] = domain
        layers = self._layers(method, settings, f"{where}.placement")
        rates = self._rates(method, settings, f"{where}.learning_rate")
        if len(self.problems) > before or layers is None or rates is None:
            return None
        return Part(method=method, domains=domains, layers=layers, learning_rates=rates)

    def _domain(
        self, dimension: Dimension, settings: Mapping[str, Any], where: str
    ) -> Domain | None:
        if dimension.name not in settings:
            return domain_of(dimension)
        given = settings[dimension.name]
        if dimension.kind == "subset":
            return self._subset(dimension, given, where)
        values = self._members(dimension, given, where)
        return ValueDomain(dimension, values) if values else None

    def _subset(self, dimension: Dimension, given: Any, where: str) -> Domain | None:
        if given == "all":
            given = [list(dimension.values)]
        if isinstance(given, list) and given and all(isinstance(each, list) for each in given):
            subsets = [self._members(dimension, each, where) for each in given]
            chosen = [subset for subset in subsets if subset]
            if len(chosen) < len(given):
                return None
            values = [v for v in dimension.values if any(v in subset for subset in chosen)]
            default = _tuple(dimension.default)
            return SubsetDomain(dimension.name, values, allowed=chosen, default=default)
        values = list(self._members(dimension, given, where))
        if not values:
            return None
        return SubsetDomain(dimension.name, values, default=_tuple(dimension.default))

    def _members(self, dimension: Dimension, given: Any, where: str) -> tuple[Any, ...]:
        """Return the declared values that were named, in order; nothing after a problem."""
        items = given if isinstance(given, list) else [given]
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
                    f"{where}: {_shown(item)} is unknown{did_you_mean(item, names)}"
                )
            else:
                self.problems.append(f"{where}: {_shown(item)} is none of {expected}")
        if len(found) < len(items):
            return ()
        return tuple(value for value in dimension.values if value in found)

    def _layers(
        self, method: Method, settings: Mapping[str, Any], where: str
    ) -> LayerDomain | None:
        kinds: tuple[Kind, ...] = KINDS if method.is_placeable else ("all",)
        given = settings.get("placement", list(kinds))
        items = given if isinstance(given, list) else [given]
        wrong = [item for item in items if item not in kinds]
        for item in wrong:
            if item in KINDS:
                self.problems.append(f"{where}: {method.name} always stands on all layers")
            else:
                self.problems.append(
                    f"{where}: {_shown(item)} is unknown{did_you_mean(str(item), kinds)}"
                )
        if not items:
            self.problems.append(f"{where}: empty; expected some of {', '.join(kinds)}")
        if wrong or not items:
            return None
        return LayerDomain(self.shape.num_layers, items)

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
            self._unknown_keys(given, ("low", "high", "default"), f"{where}.")
            ends = [given.get("low", declared.low), given.get("high", declared.high)]
            default = given.get("default")
        else:
            ends = list(given) if isinstance(given, list) else [given, given]
        if len(ends) != 2:
            self.problems.append(f"{where}: {form}, got {_shown(given)}")
            return None
        low, high = (_rate(end) for end in ends)
        if low is None or high is None:
            self.problems.append(
                f"{where}: {form}, each above 0 and at most 1, got {_shown(given)}"
            )
            return None
        if low > high:
            self.problems.append(f"{where}: low ({low:g}) is above high ({high:g})")
            return None
        middle = min(max(declared.default, low), high) if default is None else _rate(default)
        if middle is None or not low <= middle <= high:
            self.problems.append(
                f"{where}.default: {_shown(default)} is not between {low:g} and {high:g}"
            )
            return None
        return LearningRates(low=low, default=middle, high=high)


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


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _reference_site(site: str, path: str, in_features: int, out_features: int) -> SiteShape:
    return SiteShape(
        site=site,
        path=f"encoder.layer.{{layer}}.{path}",
        in_features=in_features,
        out_features=out_features,
        has_bias=True,
    )


#: A model that has every site, to check a space where no model is known yet.
_REFERENCE_SHAPE = ModelShape(
    name="a model with every site",
    model_type="bert",
    num_layers=12,
    hidden_size=768,
    num_attention_heads=12,
    num_key_value_heads=12,
    head_size=64,
    sites=tuple(
        _reference_site(
            name, name, 3072 if name == "ffn_out" else 768, 3072 if name == "ffn_in" else 768
        )
        for name in SITE_NAMES
    ),
    num_base_parameters=109_482_240,
    num_head_parameters=1_538,
    head_paths=("classifier",),
)
