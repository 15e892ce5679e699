"""What autograd saves for a configuration, added up from a few forward passes.

Transformer layers are alike, and which tensors autograd saves is monotone in what trains: a
graph node saves a tensor as soon as *one* of the inputs that need it requires a gradient. With
``T(x)`` the storages saved where only ``x`` trains, several things that train together save
exactly the union of their ``T``. Storages are told apart by
:data:`~autopeft.workers.memory.accounting.Label`, so that shared ones (the input of query, key
and value) count once. What a frozen module of the accounted model saves although a
configuration does not have it is a few vectors (DoRA's frozen magnitudes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import get_method
from autopeft.workers.injection import adapter_name, trainable_parameters
from autopeft.workers.memory.sizes import (
    Bytes,
    Knob,
    NotAdditiveError,
    SizeTable,
    configuration_of,
)
from autopeft.workers.memory.step import TrainingStep

#: Something that trains inside a layer: a method at one of its sites.
Source = tuple[str, str]
#: Layers a layered ledger builds: one that gradients only leave, one that they flow through.
NUM_LAYERS = 2


class WholeModelLedger:
    """Bytes saved by methods that reach every layer at once, from the full model.

    Attributes:
        table: Sizes, affine in the knobs.
    """

    def __init__(
        self,
        step: TrainingStep,
        modules: Sequence[Module],
        values: Mapping[Knob, tuple[float, ...]],
    ) -> None:
        self.table = SizeTable(step, modules, values)
        self._total = self.table.total(np.ones(len(self.table.rows), dtype=bool))

    def adds_up(self) -> bool:
        """Tell whether :meth:`saved` can be asked."""
        return True

    def saved(self, modules: Sequence[Module]) -> Bytes:
        """Return the ``1 + k`` coefficients of the bytes saved for these modules."""
        return self._total


class LayeredLedger:
    """Bytes saved by methods that stand on chosen layers and sites.

    One forward pass for each site ``s`` of a model of two layers gives

    * ``T(s on layer 1)``: what the *lowest* adapted layer of a deep model saves, head included;
    * ``T(s on layer 1) - T(s0 on layer 0)``, for any ``s0``: what ``s`` adds to a layer that
      gradients flow through;
    * ``|T(s0 on layer 0)| - |T(s0 on layer 1)|``: the bytes of a layer that gradients flow
      through.

    Attributes:
        table: Sizes, affine in the knobs.
    """

    def __init__(
        self,
        step: TrainingStep,
        modules: Sequence[Module],
        values: Mapping[Knob, tuple[float, ...]],
    ) -> None:
        """Account for methods in all combinations of layers and sites.

        Args:
            step: For the model in full depth.
            modules: One module a method; layers, sites and knobs are replaced.
            values: The knobs.

        Raises:
            NotAffineError: see :class:`~autopeft.workers.memory.sizes.SizeTable`.
        """
        self._num_layers = step.shape.num_layers
        self._step = step.with_layers(NUM_LAYERS)
        everywhere = [_everywhere(module, step.shape) for module in modules]
        self.table = SizeTable(self._step, everywhere, values)
        self._lowest: dict[frozenset[Source], Bytes] = {}
        self._above: dict[frozenset[Source], Bytes] = {}

    @cached_property
    def _masks(self) -> dict[tuple[int, Source], NDArray[np.bool_]]:
        """Flags of ``T`` for each source of layer 1 and for one of layer 0."""
        model = self._step.build(configuration_of(self.table.modules))
        groups = _parameters_by_source(model, self.table.modules, self._step.shape)
        masks: dict[tuple[int, Source], NDArray[np.bool_]] = {}
        for (layer, source), parameters in groups.items():
            if layer == 0 and any(other == 0 for other, _ in masks):
                continue
            for group in groups.values():
                for parameter in group:
                    parameter.requires_grad_(False)
            for parameter in parameters:
                parameter.requires_grad_(True)
            masks[layer, source] = self.table.mask(self._step.saved_by_label(model))
        return masks

    @cached_property
    def _flow(self) -> tuple[NDArray[np.bool_], Bytes]:
        """Flags of ``T(s0 on layer 0)`` and coefficients of a layer gradients flow through."""
        ((source, mask),) = [(s, mask) for (layer, s), mask in self._masks.items() if layer == 0]
        return mask, self.table.total(mask) - self.table.total(self._masks[1, source])

    def adds_up(self) -> bool:
        """Tell whether :meth:`saved` can be asked; without it only a probe can tell."""
        try:
            return len(self._masks) > 0
        except NotAdditiveError:
            return False

    def saved(self, modules: Sequence[Module]) -> Bytes:
        """Return the ``1 + k`` coefficients of the bytes saved for these modules."""
        layers: dict[int, set[Source]] = {}
        for module in modules:
            trained = self._sources(module)
            for layer in module.layers:
                layers.setdefault(layer, set()).update(trained)
        lowest = min(layers)
        through = self._flow[1]
        total = self._saved_lowest(frozenset(layers.pop(lowest)))
        total = total + (self._num_layers - 1 - lowest) * through
        for sources in layers.values():
            total = total + self._saved_above(frozenset(sources))
        return total

    def _sources(self, module: Module) -> list[Source]:
        sites = module.as_dict().get("sites")
        return [
            (method, site)
            for layer, (method, site) in self._masks
            if layer == 1
            and method == module.method
            and (not isinstance(sites, tuple) or site in sites)
        ]

    def _saved_lowest(self, sources: frozenset[Source]) -> Bytes:
        if sources not in self._lowest:
            self._lowest[sources] = self.table.total(self._union(sources))
        return self._lowest[sources]

    def _saved_above(self, sources: frozenset[Source]) -> Bytes:
        if sources not in self._above:
            flow = self._flow[0]
            self._above[sources] = self.table.total(self._union(sources) & ~flow)
        return self._above[sources]

    def _union(self, sources: frozenset[Source]) -> NDArray[np.bool_]:
        union: NDArray[np.bool_] = np.logical_or.reduce([self._masks[1, s] for s in sources])
        return union


def _everywhere(module: Module, shape: ModelShape) -> Module:
    """Return the module on every layer of the small model and every site of its method."""
    settings = module.as_dict()
    for dimension in get_method(module.method).dimensions(shape):
        if dimension.kind == "subset":
            settings[dimension.name] = dimension.values
    return Module.of(module.method, tuple(range(NUM_LAYERS)), **settings)


def _parameters_by_source(
    model: Any, modules: Sequence[Module], shape: ModelShape
) -> dict[tuple[int, Source], list[Any]]:
    """Return the trainable parameters, head aside, by layer, method and site."""
    places = {
        f".{site.path_in(layer)}.": (layer, site.site)
        for site in shape.sites
        for layer in site.layers_among(range(shape.num_layers))
    }
    groups: dict[tuple[int, Source], list[Any]] = {}
    for name, parameter in trainable_parameters(model).items():
        plain = f".{name.replace('.base_layer.', '.')}"
        place = next((place for path, place in places.items() if path in plain), None)
        if place is None:
            if not any(f".{path}." in plain for path in shape.head_paths):
                raise NotAdditiveError(name)
            continue
        method = _method_of(plain.split("."), modules)
        groups.setdefault((place[0], (method, place[1])), []).append(parameter)
    return groups


def _method_of(parts: Sequence[str], modules: Sequence[Module]) -> str:
    if len(modules) == 1:
        return modules[0].method
    return next(m.method for m in modules if adapter_name(m.method) in parts)
