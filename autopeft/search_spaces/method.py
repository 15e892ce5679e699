"""The seam ``Method``: what can be put into a model, declared as data.

A method says which dimensions it has, how many parameters it adds (from shapes alone) and
which PEFT configuration it becomes. It never sees a model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from autopeft.records import ModelShape
from autopeft.registry import Registry
from autopeft.search_spaces.configuration import Module, Setting

SavedAs = Literal["peft", "peft-parts", "ours"]
#: Where a trained adapter is to run: inside the base weights, in PEFT, or in vLLM.
Deploy = Literal["merged", "peft", "vllm"]


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
    trains in the built module to the last parameter; ``peft_config`` names layers and
    sites exactly, so that nothing outside them (such as a pooler) is ever matched.

    A method of PEFT is this declaration and nothing else. A method that PEFT lacks names in
    ``module_file`` the one file with its config and layers, which registers them with PEFT
    when it is imported.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    family: ClassVar[str]
    paper: ClassVar[str]
    saved_as: ClassVar[SavedAs] = "peft"
    is_mergeable: ClassVar[bool] = False
    #: Whether single layers can be chosen; False puts it on all of them.
    is_placeable: ClassVar[bool] = True
    #: Name of the setting that says how many of the last layers carry it, where one does.
    counted_by: ClassVar[str | None] = None
    #: Whether it can stand beside other methods in one configuration.
    is_combinable: ClassVar[bool] = True
    #: Names of what only one method of a configuration can have, such as ``prompt`` (the
    #: tokens in front of the text): methods that share one never stand together.
    exclusive: ClassVar[frozenset[str]] = frozenset()
    #: Whether it must be put on before any other method, because it refuses layers that carry
    #: one, or reads their weight and so passes over it. Only one such method stands in a
    #: configuration.
    needs_bare_layers: ClassVar[bool] = False
    #: Dotted name of the file that registers config and layers with PEFT; None where they
    #: are PEFT's own.
    module_file: ClassVar[str | None] = None
    #: Names of the tasks it is made for; None stands for every task.
    tasks: ClassVar[frozenset[str] | None] = None
    #: Whether a fresh module leaves the model's outputs as they were, as its paper says.
    starts_as_base: ClassVar[bool] = True
    #: Endings of parameter names that PEFT would train and the method keeps as they start
    #: (LoRA-FA keeps ``lora_A``); they are saved all the same.
    frozen_parameters: ClassVar[tuple[str, ...]] = ()
    #: Whether it can train the stacked experts of a mixture.
    trains_experts: ClassVar[bool] = False
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

    def layer_settings(
        self, shape: ModelShape, module: Module, layer: int
    ) -> Mapping[str, Setting]:
        """Return the settings by which all layers would be as a module makes this one.

        By default its own. Overridden where a setting is a pattern over the layers; settings
        that :meth:`dimensions` lacks may then stand in its place.
        """
        return module.as_dict()

    def num_lora_a(self, shape: ModelShape, module: Module) -> int:
        """Return how many of the trainable parameters are LoRA's first matrices, A.

        The optimiser ``lora-fa`` leaves them as they start. By default none are.
        """
        return 0

    def num_saved_parameters(self, shape: ModelShape, module: Module) -> int:
        """Return the numbers in the adapter file, head excluded; by default what trains.

        Overridden where the file also holds what does not train, such as fixed projections
        or masks, or less than what trains.
        """
        return self.num_parameters(shape, module)

    def inference_extra_flops(self, shape: ModelShape, module: Module) -> int:
        """Return the floating-point operations a token costs beyond the base model's.

        By default 0 where the module can be merged, else two for each parameter (one
        multiplication and one addition).
        """
        if self.can_merge(shape, module):
            return 0
        return 2 * self.num_parameters(shape, module)

    def can_merge(self, shape: ModelShape, module: Module) -> bool:
        """Tell whether this module can be merged into the base weights without a trace.

        By default as ``is_mergeable`` says, and never into weights in 4 or 8 bits: the sum
        would be rounded to them. Overridden where it depends on the settings or the sites.
        """
        return self.is_mergeable and shape.quantization is None

    def site_names(self, settings: Mapping[str, Setting]) -> tuple[str, ...] | None:
        """Return the names of the sites a module with these settings is put on.

        Layers that have none of them make no difference and are left out of a
        configuration. None where every layer counts. By default the setting ``sites``.
        """
        sites = settings.get("sites")
        return sites if isinstance(sites, tuple) else None

    def deploy_values(self, shape: ModelShape, deploy: Deploy) -> Mapping[str, tuple[Any, ...]]:
        """Return the only values some dimensions may have where a module is to run so.

        By default no dimension is restricted where the module can run so at all: merged as
        ``is_mergeable`` says, in PEFT as ``saved_as`` does, in vLLM never.

        Raises:
            ValueError: it cannot, and why.
        """
        if deploy == "merged" and not self.is_mergeable:
            raise ValueError("it cannot be merged into the base weights")
        if deploy == "peft" and self.saved_as != "peft":
            raise ValueError("PEFT alone cannot load it")
        if deploy == "vllm":
            raise ValueError("vLLM loads LoRA only")
        return {}

    @classmethod
    def from_peft_config(cls, shape: ModelShape, config: Mapping[str, Any]) -> Module:
        """Return the module that a published ``adapter_config.json`` means on a model.

        The settings may lie outside of :meth:`dimensions`.

        Raises:
            ValueError: it means no module of this method, and why.
        """
        raise ValueError(f"{cls.name} cannot be read from a PEFT config")

    def canonical(self, settings: Mapping[str, Setting]) -> Mapping[str, Setting]:
        """Return the settings by which the same training is known; by default unchanged.

        Overridden where two sets of settings of this method train identically. Applying it
        twice changes nothing more.
        """
        return settings

    def remarks(self, shape: ModelShape) -> tuple[str, ...]:
        """Return what of such a model the method leaves as it is, and why, for people.

        By default the stacked experts of a mixture, unless it ``trains_experts``.
        """
        if self.trains_experts or not any(s.site.startswith("experts_") for s in shape.parameters):
            return ()
        return ("the stacked experts are not adapted: their weights stay as they are",)

    def unavailable(self, shape: ModelShape) -> str | None:
        """Return why the method cannot be used on such a model, None where it can.

        By default it can where it is made for the task, and each of its dimensions has at
        least one value.
        """
        if self.tasks is not None and shape.task not in self.tasks:
            return f"it is made for {', '.join(sorted(self.tasks))}, not for {shape.task}"
        for dimension in self.dimensions(shape):
            if not dimension.values:
                return f"{shape.model_type} offers no value for its {dimension.name}"
        return None


METHODS: Registry[Method] = Registry("methods", package="autopeft.search_spaces.methods")


def num_trained(shape: ModelShape, modules: Iterable[Module], optimizer: str) -> int:
    """Return how many parameters of modules train under an optimiser, head excluded.

    Args:
        shape: Of the model they are put on.
        modules: Those of one configuration.
        optimizer: Its name; ``lora-fa`` alone leaves some as they start.
    """
    total = 0
    for module in modules:
        method = get_method(module.method)
        total += method.num_parameters(shape, module)
        if optimizer == "lora-fa":
            total -= method.num_lora_a(shape, module)
    return total


def get_method(name: str) -> Method:
    """Return the method registered under ``name``; AutopeftError offers the nearest one."""
    return METHODS.get(name)()
