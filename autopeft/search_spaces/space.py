"""A search space on one model: sample, mutate, encode, decode, count."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autopeft.records import ModelShape, Proposal
from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.domains import SubsetDomain
from autopeft.search_spaces.encoding import Encoding
from autopeft.search_spaces.mutation import Mutation
from autopeft.search_spaces.part import LearningRates, Part
from autopeft.search_spaces.portfolio import known_good, origin_of
from autopeft.search_spaces.prior import Prior
from autopeft.search_spaces.space_files import SpaceSpec, preset_names, read_spec
from autopeft.search_spaces.spec import parse, space_problems

__all__ = ["SearchSpace", "check_space", "load_space", "lora_sweep_space", "preset_names"]

Combine = Literal["one", "any"]


class SearchSpace:
    """All configurations that may be tried on one model.

    Everything is a pure function of the arguments and of the generator handed in.

    Args:
        name: For people.
        shape: The model.
        parts: The methods, each with its restricted dimensions.
        combine: ``one`` method in each configuration, or ``any`` non-empty set of them
            (methods that cannot stand beside others stay alone).
        notes: What was left out and why, for people.
    """

    def __init__(
        self,
        name: str,
        shape: ModelShape,
        parts: Sequence[Part],
        *,
        combine: Combine = "one",
        notes: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.shape = shape
        self.combine = combine
        self.notes = tuple(notes)
        self.parts = {part.name: part for part in sorted(parts, key=lambda part: part.name)}
        self.method_sets = _method_sets(list(self.parts.values()), combine)
        shared = combine == "one"
        self._encoding = Encoding(self.parts, self.method_sets, is_shared=shared)
        self._prior = Prior(self.parts, self.method_sets, self._encoding, is_shared=shared)
        self._mutation = Mutation(self.parts, self.method_sets, self._encoding, self._prior)
        self._sobol: tuple[int, NDArray[np.float64]] | None = None

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
        if configuration.methods not in self.method_sets:
            return None
        modules = []
        for module in configuration.modules:
            part = self.parts[module.method]
            given = part.values(module)
            modules.append(
                part.module(
                    {
                        name: domain.nearest(given[name]) if name in given else domain.default
                        for name, domain in part.all_domains.items()
                    }
                )
            )
        rates = self._encoding.learning_rates(configuration.methods)
        rate = min(max(configuration.learning_rate, rates.low), rates.high)
        return Configuration(modules=tuple(modules), learning_rate=rate)

    def learning_rates(self, methods: Sequence[str]) -> LearningRates:
        """Return the learning rates of configurations that hold these methods."""
        return self._encoding.learning_rates(methods)

    def __contains__(self, configuration: object) -> bool:
        return isinstance(configuration, Configuration) and not self.explain(configuration)

    def explain(self, configuration: Configuration) -> list[str]:
        """Return why a configuration is no member; nothing where it is one."""
        unknown = [name for name in configuration.methods if name not in self.parts]
        if unknown:
            return [f"{name} is not in the space ({', '.join(self.parts)})" for name in unknown]
        if configuration.methods not in self.method_sets:
            together = " + ".join(configuration.methods) or "no method at all"
            return [f"{together} cannot be one configuration of this space"]
        reasons = []
        for module in configuration.modules:
            reasons += self.parts[module.method].explain(module)
        rates = self._encoding.learning_rates(configuration.methods)
        if configuration.learning_rate not in rates:
            reasons.append(
                f"learning_rate is {configuration.learning_rate:g}, expected "
                f"{rates.low:g} to {rates.high:g}"
            )
        return reasons

    def num_adapter_parameters(self, configuration: Configuration) -> int:
        """Return the exact number of trainable parameters, task head excluded."""
        return sum(
            self.parts[module.method].method.num_parameters(self.shape, module)
            for module in configuration.modules
        )

    def portfolio(self) -> list[Proposal]:
        """Return known-good defaults that the space contains, cheapest first.

        LoRA on all linear layers carries the origin ``portfolio:lora-sweep``.
        """
        found = [self.nearest(wanted) for wanted in known_good(self.shape, self.parts)]
        members = dict.fromkeys(member for member in found if member is not None)
        return [
            Proposal(configuration=member, origin=origin_of(self.shape, member))
            for member in sorted(members, key=self.num_adapter_parameters)
        ]

    def describe(self) -> list[str]:
        """Say what the space holds, a line for each method and dimension."""
        lines = []
        for part in self.parts.values():
            rates = part.learning_rates
            lines.append(f"{part.name}: {part.method.title}")
            lines += [f"  {name}: {domain.describe()}" for name, domain in part.domains.items()]
            lines.append(f"  placement: {part.layers.describe()}")
            lines.append(f"  learning_rate: {rates.low:g} to {rates.high:g}")
        return [*lines, *self.notes]


def _method_sets(parts: Sequence[Part], combine: Combine) -> SubsetDomain:
    names = [part.name for part in parts]
    allowed: list[tuple[str, ...]] | None = [(name,) for name in names]
    if combine == "any":
        free = [part.name for part in parts if part.method.is_combinable]
        if len(free) == len(names):
            allowed = None
        else:
            alone = [(name,) for name in names if name not in free]
            sets = [c for size in range(1, len(free) + 1) for c in combinations(free, size)]
            allowed = [*alone, *sets]
    return SubsetDomain("method", names, allowed=allowed, default=names[:1])


def load_space(
    spec: str | Path | Mapping[str, Any], shape: ModelShape, *, base: Path | None = None
) -> SearchSpace:
    """Build a space on one model.

    Args:
        spec: Name of a preset, a YAML file relative to ``base``, or its content.
        shape: The model.
        base: Folder that relative paths start from; the working folder where None.

    Raises:
        InvalidSpaceError: with every problem found, one line each.
    """
    found = read_spec(spec, base=base)
    return _build(found, shape)


def _build(spec: SpaceSpec, shape: ModelShape) -> SearchSpace:
    parsed = parse(spec, shape)
    return SearchSpace(spec.name, shape, parsed.parts, combine=parsed.combine, notes=parsed.notes)


def check_space(spec: str | Path | Mapping[str, Any], *, base: Path | None = None) -> list[str]:
    """Return what is wrong with a space as far as it shows without a model."""
    return space_problems(spec, base=base)


def lora_sweep_space(shape: ModelShape) -> SearchSpace:
    """Return the baseline everybody knows: LoRA on all linear layers, rank x learning rate."""
    settings = {
        "sites": "all",
        "alpha_ratio": 2.0,
        "dora": False,
        "rslora": False,
        "placement": "all",
    }
    spec = SpaceSpec(name="lora-sweep", data={"methods": {"lora": settings}})
    return _build(spec, shape)
