"""What a user may write about a space, checked against one model; all problems at once.

A space file names methods and restricts what it wants restricted::

    combine: any                      # one method in each configuration, any set, or all
    max_methods: 2                    # at most so many together (3)
    one_per_family: true              # not two low-rank methods in one configuration
    layers: shared                    # all methods of a configuration on the same layers
    deploy: vllm                      # only what can run so: merged, peft or vllm
    include: [path/adapter_config.json]   # published adapters, taken as they are
    placement: [all, last]            # for every method that does not say otherwise
    sites: [[attention], [ffn], [all]]    # the same
    methods:
      lora:
        rank: [4, 8, 16]              # some of the values
        sites: [q, v]                 # any non-empty subset of these; [[q, v]]: exactly these
        dora: false                   # one value
        placement: [all, last]        # see autopeft.search_spaces.placement
        learning_rate: [2.0e-4, 1.0e-2]
      serial-adapter:
        bottleneck: {at_width: 768, values: [12, 48]}   # scaled to the model's width
      ia3:                            # everything it offers
      all:                            # every other method that the model can use
    training:                         # training settings to search, in place of the job's own
      gradient_checkpointing: [false, true]
      batch_size: [16, 32]

``preset: default`` takes a preset, whose keys the other ones replace; its methods are added to.
Among sites, ``attention``, ``ffn``, ``mixer`` and ``all`` stand for all sites of that kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from autopeft.errors import InvalidSpaceError
from autopeft.naming import did_you_mean
from autopeft.records import ModelShape
from autopeft.search_spaces.composition import MAX_METHODS, Combine, why_apart
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.deploy import DEPLOYS, check_deployable
from autopeft.search_spaces.included import module_of
from autopeft.search_spaces.method import METHODS, get_method
from autopeft.search_spaces.part import LearningRates, Part
from autopeft.search_spaces.part_reader import PartReader, shown
from autopeft.search_spaces.placement import LayerDomain
from autopeft.search_spaces.reference import REFERENCE_SHAPE
from autopeft.search_spaces.space_files import ALL, SpaceSpec, read_spec
from autopeft.search_spaces.training_domain import (
    NO_TRAINING,
    JobTraining,
    TrainingDomain,
    common,
    shape_under,
)
from autopeft.search_spaces.training_reader import read_training

_CHOICES: dict[str, tuple[str, ...]] = {
    "combine": ("one", "any", "all"),
    "layers": ("own", "shared"),
    "deploy": DEPLOYS,
}
_KEYS = (
    "combine",
    "deploy",
    "description",
    "include",
    "layers",
    "max_methods",
    "methods",
    "one_per_family",
    "placement",
    "preset",
    "sites",
    "training",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedSpace:
    """A space that was found to be right for a model; see ``SearchSpace``."""

    parts: tuple[Part, ...]
    combine: Combine
    max_methods: int
    one_per_family: bool
    shares_layers: bool
    included: tuple[Module, ...]
    training: TrainingDomain
    notes: tuple[str, ...]


def parse(spec: SpaceSpec, shape: ModelShape, training: JobTraining | None = None) -> ParsedSpace:
    """Check a space against a model, and against the job's own training settings.

    Raises:
        InvalidSpaceError: with every problem found, one line each.
    """
    reader = _Reader(shape, spec, training)
    parsed = reader.read(spec.data)
    if reader.problems or parsed is None:
        listed = "\n".join(f"  - {problem}" for problem in reader.problems)
        raise InvalidSpaceError(
            f"space {spec.name!r} does not work for {shape.name}:\n{listed}",
            hint="`autopeft spaces` shows the presets and what can be set",
        )
    return parsed


def space_problems(
    spec: str | Path | Mapping[str, Any],
    *,
    base: Path | None = None,
    training: JobTraining | None = None,
) -> list[str]:
    """Return what is wrong with a space as far as it shows without a model."""
    try:
        found = read_spec(spec, base=base)
    except InvalidSpaceError as error:
        is_told = error.hint is None or error.message.endswith("?")
        return [error.message if is_told else f"{error.message}; {error.hint}"]
    reader = _Reader(REFERENCE_SHAPE, found, training, is_model_known=False)
    reader.read(found.data)
    return reader.problems


def _layers(config: Mapping[str, Any]) -> str:
    """Say what layers a PEFT config names, where it names them."""
    names = config.get("target_modules")
    return (
        f" (its layers: {', '.join(map(str, names))})" if isinstance(names, list) and names else ""
    )


class _Reader:
    """Read one space, collecting problems; each names the key it stands under."""

    def __init__(
        self,
        shape: ModelShape,
        spec: SpaceSpec,
        training: JobTraining | None,
        *,
        is_model_known: bool = True,
    ) -> None:
        self.shape = shape
        self.spec = spec
        self.job_training = training
        self.training = NO_TRAINING
        self.is_model_known = is_model_known
        self.problems: list[str] = []
        self.notes: list[str] = []

    def read(self, data: Any) -> ParsedSpace | None:
        if not isinstance(data, Mapping):
            self.problems.append(f"expected keys ({', '.join(_KEYS)}), got {shown(data)}")
            return None
        for key in data:
            if key not in _KEYS:
                self.problems.append(f"{key}: unknown key{did_you_mean(str(key), _KEYS)}")
        chosen = {key: self._choice(data, key) for key in _CHOICES}
        if "training" in data:
            self.training = read_training(data["training"], self.job_training, self.problems)
        parts = self._parts(data, chosen)
        included = self._included(data, parts, chosen["deploy"])
        if not parts and not self.problems and self.is_model_known:
            self.problems.append(f"methods: none of them can be used; {'; '.join(self.notes)}")
        if not parts:
            return None
        if chosen["layers"] == "shared":
            self._check_shared(parts)
        return ParsedSpace(
            parts=tuple(parts),
            combine=self._combine(chosen, parts),
            max_methods=self._max_methods(data),
            one_per_family=self._flag(data, "one_per_family"),
            shares_layers=chosen["layers"] == "shared",
            included=tuple(included),
            training=self.training,
            notes=tuple(self.notes),
        )

    def _choice(self, data: Mapping[str, Any], key: str) -> str | None:
        given = data.get(key)
        choices = _CHOICES[key]
        if given is None and key in data and key != "deploy":
            given = "nothing"
        if given is None or given in choices:
            return given
        valid = " nor ".join(repr(choice) for choice in choices)
        hint = did_you_mean(str(given), choices)
        self.problems.append(f"{key}: {shown(given)} is neither {valid}{hint}")
        return None

    def _combine(self, chosen: Mapping[str, str | None], parts: Sequence[Part]) -> Combine:
        found = chosen["combine"] or "one"
        if found == "all":
            whole = [part for part in parts if part.fixed is None]
            for a, b in combinations(whole, 2):
                reason = why_apart(a, b)
                if reason is not None:
                    self.problems.append(f"combine: all, but {a.name} and {b.name}: {reason}")
            if not common(self.training.mask(part.method, self.shape) for part in whole):
                self.problems.append(
                    "combine: all, but no values of the training settings go with all methods"
                )
        if chosen["deploy"] and found != "one":
            # What is deployed is one adapter.
            if found == "all":
                self.problems.append("combine: all is several adapters; deploy: one")
            return "one"
        return "any" if found == "any" else "all" if found == "all" else "one"

    def _max_methods(self, data: Mapping[str, Any]) -> int:
        given = data.get("max_methods", MAX_METHODS)
        if isinstance(given, bool) or not isinstance(given, int) or given < 1:
            self.problems.append(f"max_methods: expected a number from 1, got {shown(given)}")
            return 1
        return given

    def _flag(self, data: Mapping[str, Any], key: str) -> bool:
        given = data.get(key, False)
        if not isinstance(given, bool):
            self.problems.append(f"{key}: {shown(given)} is neither true nor false")
        return given is True

    def _parts(self, data: Mapping[str, Any], chosen: Mapping[str, str | None]) -> list[Part]:
        defaults = {key: data[key] for key in ("placement", "sites") if key in data}
        deploy = next((each for each in DEPLOYS if each == chosen["deploy"]), None)
        parts = []
        for name, (settings, is_optional) in self._methods(data).items():
            method = get_method(name)
            # Where all stand together, none can be left out.
            may_lack = is_optional and chosen["combine"] != "all"
            if self.is_model_known and (why := self.training.why_never(method, self.shape)):
                (self.notes if may_lack else self.problems).append(f"{name} left out: {why}")
                continue
            reader = PartReader(
                self.training.shape_for(method, self.shape),
                problems=self.problems,
                notes=self.notes,
                defaults=defaults,
                deploy=deploy,
                is_model_known=self.is_model_known,
            )
            part = reader.part(method, settings, is_optional=may_lack)
            if part is not None:
                parts.append(part)
        return parts

    def _methods(self, data: Mapping[str, Any]) -> dict[str, tuple[Any, bool]]:
        """Return settings by method, and whether it may be left out where it cannot be used."""
        methods = data.get("methods")
        if isinstance(methods, str):
            methods = [methods]
        if isinstance(methods, list):
            methods = {str(name): None for name in methods}
        if not isinstance(methods, Mapping) or not methods:
            if data.get("include") and methods is None:
                return {}
            self.problems.append(
                f"methods: expected at least one method, such as lora, got "
                f"{'nothing' if methods is None else shown(methods)}; "
                "`autopeft methods` lists them, and `preset: default` brings some"
            )
            return {}
        found: dict[str, tuple[Any, bool]] = {}
        for name, settings in methods.items():
            is_optional = self.spec.is_preset and name not in self.spec.named
            if name in METHODS.names():
                found[name] = settings, is_optional
            elif name == ALL:
                others = [each for each in METHODS.names() if each not in methods]
                found |= dict.fromkeys(others, (settings, True))
            elif is_optional:
                left_out = self.problems if data.get("combine") == "all" else self.notes
                left_out.append(f"{name} left out: no method of that name is installed")
            else:
                hint = did_you_mean(str(name), METHODS.names())
                self.problems.append(f"methods.{name}: unknown key{hint}")
        return found

    def _included(
        self, data: Mapping[str, Any], parts: list[Part], deploy: str | None
    ) -> list[Module]:
        """Return the published adapters, and make parts of those that no part reaches."""
        if data.get("include") is None:
            return []
        found = []
        labels: set[str] = set()
        for item in data["include"] if self.is_model_known else []:
            try:
                module, shape = self._module_of(item["config"])
                check_deployable(module, shape, deploy)
            except ValueError as error:
                self.problems.append(f"include: {item['name']}: {error}{_layers(item['config'])}")
                continue
            if module in found:
                continue
            found.append(module)
            regular = [part for part in parts if part.name == module.method]
            if regular and not regular[0].explain(module):
                continue
            label = f"included:{item['name']}"
            while label in labels:
                label += "'"
            labels.add(label)
            method = get_method(module.method)
            rates = regular[0].learning_rates if regular else LearningRates.of(method.learning_rate)
            parts.append(
                Part(
                    method=method,
                    shape=shape,
                    domains={},
                    layers=LayerDomain(self.shape.num_layers, ("all",)),
                    learning_rates=rates,
                    fixed=module,
                    label=label,
                )
            )
        return found

    def _module_of(self, config: Mapping[str, Any]) -> tuple[Module, ModelShape]:
        """Return what a PEFT config means, and the model as it can be trained with it.

        Raises:
            ValueError: it means nothing here, or cannot be trained with any of the settings.
        """
        shapes = [shape_under(self.shape, training) for training in self.training.allowed]
        reason = ValueError("no values of the training settings are left")
        for shape in dict.fromkeys(reversed(shapes)):
            try:
                module = module_of(config, shape)
            except ValueError as error:
                reason = error
                continue
            if why := self.training.why_never(get_method(module.method), self.shape):
                raise ValueError(why)
            return module, shape
        raise reason

    def _check_shared(self, parts: Sequence[Part]) -> None:
        placements = {p.layers.describe() for p in parts if p.method.is_placeable and not p.fixed}
        if len(placements) > 1:
            self.problems.append(
                "layers: shared, but the methods have several placements "
                f"({' | '.join(sorted(placements))}); give `placement` once, beside `layers`"
            )
