"""Sizes of saved storages as functions of numeric settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.search_spaces.method import get_method
from autopeft.workers.memory.accounting import Label
from autopeft.workers.memory.step import TrainingStep

#: A numeric setting: method and name, e.g. ``("lora", "rank")``.
Knob = tuple[str, str]
Bytes = NDArray[np.float64]


class NotAffineError(Exception):
    """Sizes are no affine function of a knob; caught where another way is at hand."""

    def __init__(self, knob: Knob) -> None:
        super().__init__(".".join(knob))
        self.knob = knob


def knob_values(shape: ModelShape, method: str) -> dict[Knob, tuple[float, ...]]:
    """Return the numeric settings of a method with the values each may take."""
    return {
        (method, dimension.name): dimension.values
        for dimension in get_method(method).dimensions(shape)
        if dimension.kind == "ordinal"
        and len(dimension.values) > 1
        and all(isinstance(value, int | float) for value in dimension.values)
    }


class NotAdditiveError(Exception):
    """Something trains that stands at no site, or storages come and go with what trains."""


class SizeTable:
    """Bytes of every storage saved where everything trains, affine in the knobs.

    Attributes:
        knobs: The ``k`` knobs.
        modules: The modules with each knob at its smallest value.
        rows: Row of each label.
        coefficients: ``n x (1 + k)`` float64: constant and slopes of the ``n`` storages.
    """

    def __init__(
        self,
        step: TrainingStep,
        modules: Sequence[Module],
        values: Mapping[Knob, tuple[float, ...]],
    ) -> None:
        """Measure with every knob at its smallest value, and along each knob.

        Args:
            step: How a model is built and run.
            modules: Modules to put in; the knobs' settings are replaced.
            values: The knobs, each with at least two values.

        Raises:
            NotAffineError: sizes at a third value are off the line, or storages come and go.
        """
        self.knobs = tuple(values)
        corner = {knob: values[knob][0] for knob in values}
        self.modules = with_knobs(modules, corner)
        self.base = saved_sizes(step, self.modules)
        self.rows = {label: row for row, label in enumerate(self.base)}
        origin = self._vector(self.base)
        slopes = []
        for knob, ordered in values.items():
            low, high = ordered[0], ordered[-1]
            slope = (self._measured(step, knob, high) - origin) / (high - low)
            between = ordered[1:-1] if slope.any() else ()
            for value in between[len(between) // 2 :][:1]:
                expected = origin + slope * (value - low)
                if not np.allclose(self._measured(step, knob, value), expected, rtol=0, atol=0.5):
                    raise NotAffineError(knob)
            slopes.append(slope)
        lows = np.array([corner[knob] for knob in self.knobs])
        matrix = np.stack(slopes, axis=1) if slopes else np.zeros((len(origin), 0))
        self.coefficients = np.column_stack([origin - matrix @ lows, matrix])

    @property
    def flat(self) -> frozenset[Knob]:
        """Knobs that no size depends on."""
        return frozenset(
            knob
            for knob, slope in zip(self.knobs, self.coefficients.T[1:], strict=True)
            if not slope.any()
        )

    def _measured(self, step: TrainingStep, knob: Knob, value: float) -> Bytes:
        sizes = saved_sizes(step, with_knobs(self.modules, {knob: value}))
        if sizes.keys() != self.rows.keys():
            raise NotAffineError(knob)
        return self._vector(sizes)

    def _vector(self, sizes: Mapping[Label, int]) -> Bytes:
        return np.array([sizes[label] for label in self.rows], dtype=np.float64)

    def mask(self, labels: Collection[Label]) -> NDArray[np.bool_]:
        """Return the ``n`` flags of the rows of these labels.

        Raises:
            NotAdditiveError: one of them is not saved where everything trains.
        """
        flags = np.zeros(len(self.rows), dtype=bool)
        if unknown := [label for label in labels if label not in self.rows]:
            raise NotAdditiveError(str(unknown[0]))
        flags[[self.rows[label] for label in labels]] = True
        return flags

    def total(self, mask: NDArray[np.bool_]) -> Bytes:
        """Return the ``1 + k`` coefficients of the sum over the flagged rows."""
        total: Bytes = self.coefficients[mask].sum(axis=0)
        return total


def saved_sizes(step: TrainingStep, modules: Sequence[Module]) -> dict[Label, int]:
    """Return the bytes of each storage saved where all of the modules train."""
    return step.saved_by_label(step.build(configuration_of(modules)))


def configuration_of(modules: Sequence[Module]) -> Configuration:
    """Return a configuration; the learning rate has no bearing on memory."""
    return Configuration(modules=tuple(modules), learning_rate=1e-3)


def with_knobs(modules: Sequence[Module], values: Mapping[Knob, float]) -> tuple[Module, ...]:
    """Return the modules with these settings replaced."""
    return tuple(
        Module.of(
            module.method,
            module.layers,
            **{
                name: values.get((module.method, name), setting)
                for name, setting in module.settings
            },
        )
        for module in modules
    )
