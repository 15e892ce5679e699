"""Training settings that a space searches beside its methods: batch size, precision and others.

A member is a combination, one value for each setting. Two kinds never come up: combinations that
are no training settings at all (more parts than a batch has examples), and, with some methods,
combinations under which one of them cannot be trained (a prefix gets no gradient under gradient
checkpointing). The first are left out of the domain; the second are a property of a method,
written as bits: bit ``i`` of a method's mask says whether it can be trained under combination
``i``, and a set of methods has those bits that all of them have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import numpy as np

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Training
from autopeft.search_spaces.domains import ValueDomain
from autopeft.search_spaces.method import Dimension, Method

Scalar = int | float | str | bool

CHECKPOINTING = "gradient_checkpointing"
OPTIMIZER = "optimizer"
LORA_FA = "lora-fa"

#: Training settings that can be searched; ordinal ones have an order on a log scale.
SEARCHABLE: Mapping[str, Literal["ordinal", "categorical"]] = {
    "batch_size": "ordinal",
    "gradient_accumulation": "ordinal",
    CHECKPOINTING: "categorical",
    OPTIMIZER: "categorical",
    "precision": "categorical",
    "saved_activations": "categorical",
}
#: Stands in front of the names of a setting's columns and hyperparameters.
PREFIX = "training."
#: All bits of a mask.
EVERY = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTraining:
    """What a space has to know of a job's own training settings.

    Attributes:
        values: What the job says of each setting that can be searched.
        why_not: Returns why settings cannot take the place of the job's own, None where they
            can.
    """

    values: Mapping[str, Scalar]
    why_not: Callable[[Mapping[str, Scalar]], str | None] = lambda values: None


class TrainingDomain:
    """The combinations of training settings that a configuration may be trained with.

    Args:
        listed: The values of each setting that is searched.
        job: The job's own settings, which are the defaults.
    """

    def __init__(
        self, listed: Mapping[str, Sequence[Scalar]], job: JobTraining | None = None
    ) -> None:
        job = job or JobTraining(values={})
        self.domains = {
            name: _domain(name, listed[name], job.values.get(name)) for name in sorted(listed)
        }
        combined = product(*(domain.values for domain in self.domains.values()))
        self.allowed: tuple[Training, ...] = tuple(
            tuple(zip(self.domains, values, strict=True))
            for values in combined
            if job.why_not(dict(zip(self.domains, values, strict=True))) is None
        )
        self._place = {_typed(training): place for place, training in enumerate(self.allowed)}
        self._nearest: dict[tuple[Any, int], Training] = {}
        self._fitting: dict[int, list[Training]] = {}
        self.num_coordinates = 1 if self.domains else 0
        self.columns = tuple(
            PREFIX + column
            for domain in self.domains.values()
            if not domain.is_constant
            for column in domain.columns
        )

    @property
    def default(self) -> Training:
        """The job's own settings, or what comes closest to them."""
        return self.nearest({})

    @property
    def varied(self) -> tuple[str, ...]:
        """Names of the settings that have more than one value."""
        return tuple(name for name, domain in self.domains.items() if not domain.is_constant)

    def fixed(self) -> TrainingDomain:
        """Return the domain whose only member is the default."""
        return TrainingDomain({name: (value,) for name, value in self.default})

    def mask(self, method: Method, shape: ModelShape) -> int:
        """Return under which combinations a method can be trained, as bits."""
        if not self.domains:
            return EVERY
        reasons = self._reasons(method, shape)
        return sum(1 << place for place, reason in enumerate(reasons) if reason is None)

    def why_never(self, method: Method, shape: ModelShape) -> str | None:
        """Return why a method can be trained under no combination, None where it can."""
        if not self.domains:
            return None
        reasons = self._reasons(method, shape)
        return None if None in reasons else reasons[0]

    def _reasons(self, method: Method, shape: ModelShape) -> list[str | None]:
        known: dict[tuple[Any, ...], str | None] = {}
        found = []
        for training in self.allowed:
            settings = dict(training)
            key = (settings.get(CHECKPOINTING), settings.get(OPTIMIZER))
            if key not in known:
                known[key] = why_apart_from(method, shape, training)
            found.append(known[key])
        return found

    def shape_for(self, method: Method, shape: ModelShape) -> ModelShape:
        """Return the model under settings that a method can be trained with, where there are."""
        if not self.domains:
            return shape
        shapes = list(dict.fromkeys(shape_under(shape, training) for training in self.allowed))
        usable = (each for each in shapes if method.unavailable(each) is None)
        return next(usable, shapes[0])

    def nearest(self, wanted: Mapping[str, Any], mask: int = EVERY) -> Training:
        """Return the combination that differs in the fewest settings, and there the least.

        Args:
            wanted: Values by name, of the domain or not; defaults where they are missing.
            mask: Which combinations may be returned.
        """
        if not self.domains:
            return ()
        values = {
            name: domain.nearest(wanted[name]) if name in wanted else domain.default
            for name, domain in self.domains.items()
        }
        training = tuple(values.items())
        place = self._place.get(_typed(training))
        if place is not None and mask >> place & 1:
            return self.allowed[place]
        key = (_typed(training), mask)
        if key not in self._nearest:
            self._nearest[key] = min(
                (each for place, each in enumerate(self.allowed) if mask >> place & 1),
                key=lambda each: self._distance(each, values),
            )
        return self._nearest[key]

    def _distance(self, training: Training, values: Mapping[str, Any]) -> tuple[int, float]:
        differing, apart = 0, 0.0
        for name, value in training:
            if value != values[name]:
                domain = self.domains[name]
                codes = zip(domain.encode(value), domain.encode(values[name]), strict=True)
                differing += 1
                apart += sum(abs(a - b) for a, b in codes)
        return differing, apart

    def draw(self, u: Sequence[float], mask: int) -> Training:
        """Return the combination at a point of the unit cube; each that fits is as likely.

        One coordinate tells it: points of a Sobol sequence, whose coordinates go together where
        each has but two values, then come by all combinations in turn.
        """
        if not self.domains:
            return ()
        if mask not in self._fitting:
            self._fitting[mask] = [
                each for place, each in enumerate(self.allowed) if mask >> place & 1
            ]
        fitting = self._fitting[mask]
        return fitting[min(int(u[0] * len(fitting)), len(fitting) - 1)]

    def neighbour(
        self, training: Training, name: str, generator: np.random.Generator, mask: int
    ) -> Training:
        """Return a combination with another value of one setting, the others as near as may be.

        The same one where no combination has another value.
        """
        domain = self.domains[name]
        value = domain.neighbour(dict(training)[name], generator)
        bits = sum(
            1 << place
            for place, each in enumerate(self.allowed)
            if mask >> place & 1 and dict(each)[name] == value
        )
        return self.nearest({**dict(training), name: value}, bits) if bits else training

    def encode(self, training: Training) -> list[float]:
        """Return a number in [0, 1] for each of :attr:`columns`."""
        return [
            code
            for name, value in training
            if not self.domains[name].is_constant
            for code in self.domains[name].encode(value)
        ]

    def decode(self, codes: Sequence[float]) -> dict[str, Any]:
        """Return the values nearest to the codes; they may be no combination."""
        found, start = {}, 0
        for name, domain in self.domains.items():
            if domain.is_constant:
                continue
            end = start + len(domain.columns)
            found[name] = domain.decode(codes[start:end])
            start = end
        return found

    def explain(self, training: Training, mask: int = EVERY) -> list[str]:
        """Return why a combination is no member; nothing where it is one."""
        given = dict(training)
        reasons = [
            f"training: {name} is not searched by the space"
            for name in given
            if name not in self.domains
        ]
        for name, domain in self.domains.items():
            if name not in given:
                reasons.append(f"training: needs a value for {name}")
            elif given[name] not in domain:
                reasons.append(f"training: {name} is {given[name]!r}, expected {domain.describe()}")
        if not reasons:
            place = self._place.get(_typed(training))
            told = ", ".join(f"{name} {value}" for name, value in training)
            if place is None:
                reasons.append(f"training: {told} cannot go together")
            elif not mask >> place & 1:
                reasons.append(f"training: the methods cannot be trained with {told}")
        return reasons

    def describe(self) -> list[str]:
        """Say what the settings may be, a line for each."""
        return [f"  {name}: {domain.describe()}" for name, domain in self.domains.items()]


def shape_under(shape: ModelShape, training: Training) -> ModelShape:
    """Return the model as it is trained with these settings."""
    uses = dict(training).get(CHECKPOINTING, shape.uses_gradient_checkpointing)
    if uses == shape.uses_gradient_checkpointing:
        return shape
    return replace(shape, uses_gradient_checkpointing=bool(uses))


def why_apart_from(method: Method, shape: ModelShape, training: Training) -> str | None:
    """Return why a method cannot be trained with some settings, None where it can."""
    has_lora_a = type(method).num_lora_a is not Method.num_lora_a
    if dict(training).get(OPTIMIZER) == LORA_FA and not has_lora_a:
        return f"the optimizer {LORA_FA} keeps LoRA's first matrices as they start; it has none"
    return method.unavailable(shape_under(shape, training))


def common(masks: Iterable[int]) -> int:
    """Return the bits that all masks have."""
    found = EVERY
    for mask in masks:
        found &= mask
    return found


def _domain(name: str, values: Sequence[Scalar], own: Scalar | None) -> ValueDomain:
    kind = SEARCHABLE[name]
    ordered = sorted(values) if kind == "ordinal" else list(values)
    default = ordered[0] if own is None else own
    return ValueDomain(
        Dimension(name=name, kind=kind, values=tuple(ordered), default=default, help="")
    )


def _typed(training: Training) -> tuple[tuple[str, type, Scalar], ...]:
    """Tell 1 from true."""
    return tuple((name, type(value), value) for name, value in training)


#: Where a space searches no training settings: one combination, of none.
NO_TRAINING = TrainingDomain({})
