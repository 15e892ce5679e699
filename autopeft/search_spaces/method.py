"""The seam ``Method``: what can be put into a model, declared as data.

A method says which dimensions it has, how many parameters it adds (from shapes alone) and
which PEFT configuration it becomes. It never sees a model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from autopeft.records import ModelShape
from autopeft.registry import Registry
from autopeft.search_spaces.configuration import Module, Setting

SavedAs = Literal["peft", "peft-parts", "ours"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """One setting of a method.

    Attributes:
        name: Setting name, the field's term, e.g. ``rank``.
        kind: ``ordinal`` (ordered ``values``), ``categorical`` (unordered ``values``), or
            ``subset`` (any non-empty subset of ``values``, kept in their order).
        values: What it may be.
        default: A good value where nothing is known.
        help: One line for people.
    """

    name: str
    kind: Literal["ordinal", "categorical", "subset"]
    values: tuple[Any, ...]
    default: Setting
    help: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningRateRange:
    """Learning rates worth trying for a method (AdamW), all positive, low < default < high."""

    low: float
    default: float
    high: float


class Method(ABC):
    """Declare one PEFT method.

    Contract: everything is a pure function of its arguments; ``num_parameters`` equals what
    PEFT reports for the built module to the last parameter; ``peft_config`` names layers and
    sites exactly, so that nothing outside them (such as a pooler) is ever matched.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    family: ClassVar[str]
    paper: ClassVar[str]
    saved_as: ClassVar[SavedAs] = "peft"
    is_mergeable: ClassVar[bool] = False
    #: Whether single layers can be chosen; False puts it on all of them.
    is_placeable: ClassVar[bool] = True
    #: Whether it can stand beside other methods in one configuration.
    is_combinable: ClassVar[bool] = True
    learning_rate: ClassVar[LearningRateRange]

    @abstractmethod
    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return what can be set on a model of this shape; sites it lacks are left out."""

    @abstractmethod
    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Return the exact number of trainable parameters the module adds, head excluded."""

    @abstractmethod
    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return keyword arguments of PEFT's config class, ``peft_type`` among them.

        ``task_type`` and ``modules_to_save`` are the worker's to add.
        """

    def canonical(self, settings: Mapping[str, Setting]) -> Mapping[str, Setting]:
        """Return the settings by which the same training is known; by default unchanged.

        Overridden where two sets of settings of this method train identically. Applying it
        twice changes nothing more.
        """
        return settings

    def unavailable(self, shape: ModelShape) -> str | None:
        """Return why the method cannot be used on such a model, None where it can.

        By default it can where each of its dimensions has at least one value.
        """
        for dimension in self.dimensions(shape):
            if not dimension.values:
                return f"{shape.model_type} offers no value for its {dimension.name}"
        return None


METHODS: Registry[Method] = Registry("methods", package="autopeft.search_spaces.methods")


def get_method(name: str) -> Method:
    """Return the method registered under ``name``; AutopeftError offers the nearest one."""
    return METHODS.get(name)()
