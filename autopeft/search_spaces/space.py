"""A search space on one model: sample, mutate, encode, decode, count."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autopeft.records import ModelShape, Proposal
from autopeft.search_spaces.composer import Composer
from autopeft.search_spaces.composition import (
    MAX_METHODS,
    Combine,
    MethodSets,
    WholeSets,
    conflicts_among,
)
from autopeft.search_spaces.configuration import Configuration, Module, Training
from autopeft.search_spaces.encoding import Blocks, Encoding
from autopeft.search_spaces.mutation import Mutation
from autopeft.search_spaces.part import LAYERS, LearningRates, Part
from autopeft.search_spaces.portfolio import MAX_DEFAULTS, known_good, origin_of
from autopeft.search_spaces.prior import Prior
from autopeft.search_spaces.space_files import SpaceSpec, preset_names, read_spec
from autopeft.search_spaces.spec import parse, space_problems
from autopeft.search_spaces.training_domain import NO_TRAINING, JobTraining, TrainingDomain

__all__ = ["SearchSpace", "check_space", "load_space", "lora_sweep_space", "preset_names"]


class SearchSpace:
    """All configurations that may be tried on one model.

    Everything is a pure function of the arguments and of the generator handed in.

    Args:
        name: For people.
        shape: The model.
        parts: The methods, each with its restricted dimensions.
        combine: ``one`` method in each configuration, or ``any`` set of them whose members
            can stand together (see :mod:`~autopeft.search_spaces.composition`), or ``all``.
        max_methods: Methods in one configuration at most, where it is ``any``.
        one_per_family: Whether at most one method of a family stands in a configuration.
        shares_layers: Whether all methods of a configuration stand on the same layers.
        included: Published adapters to try first; those that the parts' dimensions do not
            reach are parts of their own.
        training: The training settings that are searched.
        notes: What was left out and why, for people.
    """

    def __init__(
        self,
        name: str,
        shape: ModelShape,
        parts: Sequence[Part],
        *,
        combine: Combine = "one",
        max_methods: int = MAX_METHODS,
        one_per_family: bool = False,
        shares_layers: bool = False,
        included: Sequence[Module] = (),
        training: TrainingDomain = NO_TRAINING,
        notes: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.shape = shape
        self.combine = combine
        self.included = tuple(included)
        self.notes = tuple(notes)
        self.parts = {part.name: part for part in sorted(parts, key=lambda part: part.name)}
        self.training = training
        self.method_sets = self._method_sets(max_methods, one_per_family)
        self.composer = Composer(
            self.parts, self.method_sets, shares_layers=shares_layers, training=training
        )
        blocks = Blocks(self._groups(one_per_family), self.composer.sharing)
        self._encoding = Encoding(self.composer, blocks)
        self._prior = Prior(self.composer, blocks)
        self._mutation = Mutation(self.composer, self._prior)
        self._sobol: tuple[int, NDArray[np.float64]] | None = None

    def _method_sets(self, max_methods: int, one_per_family: bool) -> MethodSets:
        names = tuple(self.parts)
        masks = {n: self.training.mask(part.method, self.shape) for n, part in self.parts.items()}
        if self.combine == "all":
            whole = [name for name, part in self.parts.items() if part.fixed is None]
            return WholeSets(names, whole, masks)
        conflicts = conflicts_among(self.parts.values(), one_per_family=one_per_family)
        return MethodSets(names, conflicts, 1 if self.combine == "one" else max_methods, masks)

    def _groups(self, one_per_family: bool) -> dict[str, str]:
        """Return which parts share columns: those that never stand in one configuration."""
        if self.combine == "one":
            return dict.fromkeys(self.parts, "")
        if one_per_family:
            return {name: part.method.family for name, part in self.parts.items()}
        return {name: name for name in self.parts}

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods, sorted."""
        return tuple(self.parts)

    @property
    def dimension_names(self) -> tuple[str, ...]:
        """Names of the entries of an encoded configuration, in order."""
        return self._encoding.names

    @property
    def num_dimensions(self) -> int:
        """Length of an encoded configuration."""
        return len(self._encoding.names)

    def sample(self, n: int, generator: np.random.Generator) -> list[Configuration]:
        """Draw ``n`` distinct configurations from the prior.

        Returns fewer only where the space seems to hold no more: where a whole round of
        draws brought nothing new.
        """
        found: dict[Configuration, None] = {}
        while len(found) < n:
            before = len(found)
            rounds = max(64, n - before)
            for u in generator.random((rounds, self._prior.num_coordinates)).tolist():
                found[self._prior.configuration(u)] = None
                if len(found) == n:
                    break
            if len(found) == before:
                break
        return list(found)

    def sobol(self, n: int, *, seed: int, skip: int = 0) -> list[Configuration]:
        """Return points ``skip`` to ``skip + n`` of a scrambled Sobol sequence.

        Point ``k`` depends on ``seed`` and ``k`` only. Two points may be the same
        configuration where the space is small.
        """
        from scipy.stats import qmc

        exponent = max(6, math.ceil(math.log2(max(skip + n, 1))))
        if self._sobol is None or self._sobol[0] != seed or len(self._sobol[1]) < skip + n:
            engine = qmc.Sobol(d=self._prior.num_coordinates, scramble=True, rng=seed)
            self._sobol = (seed, engine.random_base2(exponent))
        points = self._sobol[1][skip : skip + n].tolist()
        return [self._prior.configuration(u) for u in points]

    def mutate(self, configuration: Configuration, generator: np.random.Generator) -> Configuration:
        """Return a neighbour: a different member with one or two dimensions changed.

        A space of a single configuration returns that one.
        """
        for _ in range(50):
            changed = self._mutation.change(configuration, generator)
            if changed != configuration:
                return changed
        others = [c for c in self.sample(2, generator) if c != configuration]
        return others[0] if others else configuration

    def encode(self, configurations: Sequence[Configuration]) -> NDArray[np.float64]:
        """Return the configurations as the rows of an ``n x d`` matrix in [0, 1]."""
        return self._encoding.encode(configurations)

    def decode(self, X: ArrayLike) -> list[Configuration]:
        """Return the member nearest to each row of an ``n x d`` matrix.

        ``decode(encode(c)) == c`` for every member.

        Raises:
            ValueError: another shape, or an entry that is not finite.
        """
        return self._encoding.decode(X)

    def nearest(self, configuration: Configuration) -> Configuration | None:
        """Return the member closest to a configuration of another space.

        None where the space cannot hold its methods, or not together.
        """
        if configuration in self:
            return configuration
        if configuration.methods not in self.method_sets:
            return None
        values = {}
        for module in configuration.modules:
            part = self.parts[module.method]
            given = {LAYERS: module.layers, **module.as_dict()}
            values[part.name] = {
                name: domain.nearest(given[name]) if name in given else domain.default
                for name, domain in part.all_domains.items()
            }
        position = self.learning_rates(configuration.methods).position(configuration.learning_rate)
        return self.composer.configuration(values, position, dict(configuration.training))

    def learning_rates(self, methods: Sequence[str]) -> LearningRates:
        """Return the learning rates of configurations that hold these methods."""
        return self.composer.learning_rates(methods)

    def __contains__(self, configuration: object) -> bool:
        return isinstance(configuration, Configuration) and not self.explain(configuration)

    def explain(self, configuration: Configuration) -> list[str]:
        """Return why a configuration is no member; nothing where it is one."""
        return self.composer.explain(configuration)

    def num_adapter_parameters(self, configuration: Configuration) -> int:
        """Return the exact number of trainable parameters, task head excluded."""
        return sum(
            self.parts[name].method.num_parameters(self.shape, module)
            for name, module in zip(
                self.composer.names(configuration), configuration.modules, strict=True
            )
        )

    def portfolio(self) -> list[Proposal]:
        """Return known-good configurations that the space contains, cheapest first.

        LoRA on all linear layers carries the origin ``portfolio:lora-sweep``, a published
        adapter the origin ``included``.
        """
        found: dict[Configuration, str] = {}
        for module in self.included:
            names = self.composer.names(Configuration(modules=(module,), learning_rate=1.0))
            rate = self.learning_rates(names).default
            training = self.training.nearest({}, self.method_sets.mask(names))
            own = Configuration(modules=(module,), learning_rate=rate, training=training)
            found[own] = "included"
        for wanted in known_good(self.shape, self.parts):
            member = self.nearest(wanted)
            if member is not None:
                found.setdefault(member, origin_of(self.shape, member))
        for names in self._telling_sets(map(self.composer.names, list(found))):
            found.setdefault(self._default(names), "portfolio")
        return [
            Proposal(configuration=member, origin=found[member])
            for member in sorted(found, key=self.num_adapter_parameters)
        ]

    def _telling_sets(self, known: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
        """Return the sets of methods that lack a default: all where there are few.

        Else one method of each family that has none yet, as far as there is room.
        """
        have = list(known)
        sets = self.method_sets.all_sets(MAX_DEFAULTS + 1)
        if len(sets) <= MAX_DEFAULTS:
            return [names for names in sets if names not in have]
        seen = {self.parts[name].method.family for names in have for name in names}
        families: dict[str, tuple[str, ...]] = {}
        for name, part in self.parts.items():
            if part.method.family not in seen:
                families.setdefault(part.method.family, (name,))
        return list(families.values())[: max(0, MAX_DEFAULTS - len(have))]

    def _default(self, names: Sequence[str]) -> Configuration:
        """Return the configuration of some methods with every dimension at its default."""
        values = {
            name: {key: domain.default for key, domain in self.parts[name].all_domains.items()}
            for name in names
        }
        rates = self.learning_rates(names)
        return self.composer.configuration(values, rates.position(rates.default))

    def describe(self) -> list[str]:
        """Say what the space holds, a line for each method and dimension."""
        lines = []
        for part in self.parts.values():
            rates = part.learning_rates
            lines.append(f"{part.name}: {part.method.title}")
            lines += [f"  {name}: {domain.describe()}" for name, domain in part.domains.items()]
            lines.append(f"  placement: {part.layers.describe()}")
            lines.append(f"  learning_rate: {rates.low:g} to {rates.high:g}")
        if self.training.domains:
            lines += ["training: of every method", *self.training.describe()]
        return [*lines, *self.notes]


def load_space(
    spec: str | Path | Mapping[str, Any],
    shape: ModelShape,
    *,
    base: Path | None = None,
    training: JobTraining | None = None,
) -> SearchSpace:
    """Build a space on one model.

    Args:
        spec: Name of a preset, a YAML file relative to ``base``, or its content.
        shape: The model.
        base: Folder that relative paths start from; the working folder where None.
        training: The job's own training settings, which those that are searched start from;
            where None, they start from the first value of each.

    Raises:
        InvalidSpaceError: with every problem found, one line each.
    """
    found = read_spec(spec, base=base)
    return _build(found, shape, training)


def _build(spec: SpaceSpec, shape: ModelShape, training: JobTraining | None = None) -> SearchSpace:
    parsed = parse(spec, shape, training)
    return SearchSpace(
        spec.name,
        shape,
        parsed.parts,
        combine=parsed.combine,
        max_methods=parsed.max_methods,
        one_per_family=parsed.one_per_family,
        shares_layers=parsed.shares_layers,
        included=parsed.included,
        training=parsed.training,
        notes=parsed.notes,
    )


def check_space(
    spec: str | Path | Mapping[str, Any],
    *,
    base: Path | None = None,
    training: JobTraining | None = None,
) -> list[str]:
    """Return what is wrong with a space as far as it shows without a model."""
    return space_problems(spec, base=base, training=training)


def lora_sweep_space(shape: ModelShape, training: Training = ()) -> SearchSpace:
    """Return the baseline everybody knows: LoRA on all linear layers, rank x learning rate.

    Args:
        shape: The model.
        training: What all of it is trained with, where the job's space searches such settings.
    """
    settings = {
        "sites": "all",
        "alpha_ratio": 2.0,
        "dora": False,
        "rslora": False,
        "placement": "all",
    }
    data: dict[str, Any] = {"methods": {"lora": settings}}
    if training:
        data["training"] = dict(training)
    return _build(SpaceSpec(name="lora-sweep", data=data), shape)
