"""How to write a method that PEFT does not have, in about 40 lines.

Three things make a method: a config, a part, and a line that registers both. Here is one that
learns an offset of a layer's output (a bias, where the layer need not have one)::

    # my_package/offset.py
    from dataclasses import dataclass
    import torch
    from autopeft.workers.modules import MethodConfig, Part, register_method, widths_of

    @dataclass
    class OffsetConfig(MethodConfig):
        scale: float = 1.0

    class OffsetPart(Part):
        def __init__(self, base, config, path, pool):
            super().__init__()
            self.scale = config.scale
            self.offset = torch.nn.Parameter(torch.zeros(widths_of(base)[1]))

        def forward(self, base, x):
            return base(x) + self.scale * self.offset

        def merged(self, base, weight, bias):              # only where it can be merged
            return weight, bias + self.scale * self.offset

    register_method("my_offset", OffsetConfig, OffsetPart)

From then on ``MY_OFFSET`` is a type of PEFT: ``get_peft_config``, ``get_peft_model``,
``save_pretrained``, ``PeftModel.from_pretrained`` and ``merge_and_unload`` know it, in any
process that imports the file. What is searched is declared apart, without torch, so that the
command line stays quick::

    # my_package/declaration.py, entry point  autopeft.methods: my-offset = ...:Offset
    class Offset(Method):
        name, title, family, paper = "my-offset", "Offset", "bias", "none"
        saved_as, module_file, is_mergeable = "ours", "my_package.offset", True
        learning_rate = LearningRateRange(low=1e-3, default=1e-2, high=1e-1)

        def dimensions(self, shape):
            names = [site.site for site in shape.sites if site.has_bias]
            return (site_dimension(shape, names, default=names, help="Layers with an offset."),)

        def num_parameters(self, shape, module):
            return sum(s.out_features * len(layers) for s, layers in placed_on(shape, module))

        def peft_config(self, shape, module):
            sites = target_pattern(shape, module.layers, sites_of(module))
            return {"peft_type": "MY_OFFSET", "target_modules": sites}

The same package, complete, is ``examples/plugin``.

A method that acts on whole blocks (after the attention layer, beside the feed-forward layer) has
a :class:`BlockConfig` and a :class:`BlockPart` in place of the first two. What parts have in
common (a matrix for all layers) goes through ``Part.share``. The module file may also offer
``param_groups(model, learning_rate)`` and ``on_step(model, step, num_steps)``; :func:`parts_of`
finds the parts of a model for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import PeftType, register_peft_method
from torch import nn

from autopeft.workers.modules._blocks import Beside, BlockPart, ChildLayer, Inside, InsidePart
from autopeft.workers.modules._layers import Around, MethodLayer, Pool, Sharing
from autopeft.workers.modules._types import add_peft_type

AnyPart = TypeVar("AnyPart", bound=nn.Module)


@dataclass
class MethodConfig(PeftConfig):  # type: ignore[misc]  # PEFT is untyped
    """Config of a method that is put around single layers.

    Attributes:
        target_modules: Regular expression of the full paths of the layers, or a list of names.
        modules_to_save: Modules that train beside the method, such as the task head.
        init_weights: False where weights are loaded right after; a method may ignore it.
    """

    #: Name of the type, set by :func:`register_method`.
    type_name: ClassVar[str] = ""
    #: Parts of one configuration are put in by growing order, then by name: what acts on whole
    #: blocks comes after what acts inside them, and so sees its effect.
    injection_order: ClassVar[int] = 0

    target_modules: str | list[str] | None = field(
        default=None, metadata={"help": "Paths of the adapted layers."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules that train and are saved beside the method."}
    )
    init_weights: bool = field(
        default=True, metadata={"help": "Whether the start is the method's own."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType[self.type_name]


@dataclass
class BlockConfig(MethodConfig):
    """Config of a method that is put on whole blocks; ``target_modules`` are their ends.

    Attributes:
        width: Width of the residual stream.
        block_inputs: Path of the module whose input is the block's, by the path of the module
            that ends it; a block that is not named here has its output as its input.
    """

    injection_order: ClassVar[int] = 1

    width: int = field(default=0, metadata={"help": "Width of the residual stream."})
    block_inputs: dict[str, str] = field(
        default_factory=dict, metadata={"help": "Beginning of each block by its end."}
    )


class MethodTuner(BaseTuner):  # type: ignore[misc]  # PEFT is untyped
    """Put parts into a model where a config says; one subclass for each method.

    Attributes:
        part_class: What is put there.
        attribute: Name of the child that holds the parts.
    """

    prefix: str
    tuner_layer_cls: type[Any] = MethodLayer
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}
    part_class: ClassVar[type[Any]]
    attribute: ClassVar[str]

    def _pre_injection_hook(self, model: nn.Module, config: Any, adapter_name: str) -> None:
        self._pool: Pool = {}

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
    ) -> None:
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        part = self.part_class(base, peft_config, current_key, self._pool)
        if isinstance(part, BlockPart | InsidePart):
            layer: MethodLayer = self._child(target, current_key, peft_config)
        elif isinstance(target, self.tuner_layer_cls):
            layer = target
        else:
            layer = self.tuner_layer_cls(self.attribute, target)
            setattr(parent, target_name, layer)
        layer.add_part(adapter_name, part, base)

    def _child(self, module: nn.Module, path: str, config: Any) -> MethodLayer:
        """Return the child of a module that holds the parts; make it where there is none."""
        if isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            raise TypeError(f"{path} is a {type(module).__name__}: name the last module inside")
        name = self.attribute.removesuffix("part") + "block"
        found = module._modules.get(name)
        if found is None:
            given = [module]
            if path in (inputs := getattr(config, "block_inputs", {})):
                given.append(self.model.get_submodule(inputs[path]))
            found = self.tuner_layer_cls(self.attribute, *given)
            module.add_module(name, found)
        assert isinstance(found, MethodLayer)
        return found

    def _replace_module(
        self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module
    ) -> None:
        """Put a module in the place of another; PEFT's own asks every module for a weight."""
        setattr(parent, child_name, new_module)

    def _check_tied_modules(self, model: nn.Module, peft_config: Any) -> None:
        """Accept tied embeddings: parts around a layer leave the layer's weight as it is."""

    def _unload_and_optionally_merge(self, merge: bool = True, **options: Any) -> Any:
        children = [
            (path, module)
            for path, module in self.model.named_modules()
            if isinstance(module, ChildLayer)
        ]
        if merge and children:
            raise ValueError(f"{type(self).__name__} acts between layers and cannot be merged")
        for path, module in children:
            parent, _, name = path.rpartition(".")
            module.remove()
            delattr(self.model.get_submodule(parent), name)
        return super()._unload_and_optionally_merge(merge=merge, **options)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        inside = rf"(\.{re.escape(cls.attribute)})\.{re.escape(adapter_name)}(?=\.|$)"
        return re.sub(inside, r"\1", key)


def register_method(
    name: str,
    config_class: type[MethodConfig],
    part_class: type[Sharing],
    *,
    tuner_class: type[MethodTuner] = MethodTuner,
    layer_class: type[MethodLayer] | None = None,
) -> type[MethodTuner]:
    """Make a method known to PEFT, under the type ``name.upper()``.

    Args:
        name: Lower-case identifier that no type of PEFT has; our own begin with ``autopeft_``.
        config_class: Subclass of :class:`MethodConfig`, decorated with ``@dataclass``.
        part_class: Its part: a :class:`Part`, :class:`BlockPart` or :class:`InsidePart`.
        tuner_class: Base of the tuner, where a method adds to it.
        layer_class: Base of the layer that holds the parts, where a method adds to it.

    Returns:
        The tuner class, for tests and for ``isinstance``.

    Raises:
        KeyError: PEFT has a method of that name.
    """
    add_peft_type(name.upper())
    config_class.type_name = name.upper()
    if layer_class is None:
        layer_class = Beside if issubclass(part_class, BlockPart) else Around
        layer_class = Inside if issubclass(part_class, InsidePart) else layer_class
    words = "".join(word.capitalize() for word in name.split("_"))
    own_layer = type(f"{words}Layer", (layer_class,), {"__module__": part_class.__module__})
    members = {
        "__module__": part_class.__module__,
        "__doc__": config_class.__doc__,
        "prefix": f"{name}_",
        "attribute": f"{name.removeprefix('autopeft_')}_part",
        "part_class": part_class,
        "tuner_layer_cls": own_layer,
    }
    tuner = type(f"{words}Model", (tuner_class,), members)
    register_peft_method(name=name, config_cls=config_class, model_cls=tuner)
    return tuner


def parts_of(model: nn.Module, part_class: type[AnyPart]) -> Iterator[tuple[str, AnyPart]]:
    """Yield path and part for each part of a class in a model, in the model's order.

    The path is that of the adapted layer in the model, free of what PEFT puts into it, so it is
    the same in every composition.
    """
    for path, module in model.named_modules():
        if isinstance(module, MethodLayer):
            for part in module.parts.values():
                if isinstance(part, part_class):
                    plain = path.removeprefix("base_model.model.").replace(".base_layer", "")
                    yield plain, part
