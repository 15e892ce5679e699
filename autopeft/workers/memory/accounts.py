"""What each method adds to the memory of a training step, from a few passes of a shallow model.

Transformer layers are alike, and which tensors autograd saves is monotone in what trains: a
graph node saves a tensor as soon as *one* of the inputs that need it requires a gradient. With
``T(x)`` the storages saved where only ``x`` trains, several things that train together save
exactly the union of their ``T``. Storages are told apart by
:data:`~autopeft.workers.memory.accounting.Label`, so that shared ones (the input of query, key
and value) count once, also between methods.

The passes run on a model cut to its first layers, with the method everywhere and its numeric
settings at their smallest. What the settings add is measured along each of them at up to four
values and for each pair of them at the far corner, and interpolated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Configuration, Module, Setting
from autopeft.search_spaces.method import Dimension, get_method
from autopeft.workers.injection import trainable_parameters
from autopeft.workers.memory.accounting import Label
from autopeft.workers.memory.depth import (
    layer_of,
    layer_prefixes,
    stacks_of,
)
from autopeft.workers.memory.step import TrainingStep

#: Where in a layer something trains: the name of a site, or "" for the layer itself.
Source = str
#: Stack and source; ``(-1, "")`` is outside the layers.
Place = tuple[int, Source]
OUTSIDE: Place = (-1, "")
#: All of a stack's first layer, where a method stands on every layer or on none.
LOWEST: Source = "(lowest)"
#: Layer, or None outside of them, and source of parameters that train together.
_Group = tuple[int | None, Source]
_Groups = dict[_Group, list[Any]]
_OUTSIDE: _Group = (None, "")
#: Bytes saved by autograd, and resident bytes that do not train.
Bytes = NDArray[np.float64]
Sizes = Mapping[Label, int]
#: Values of a numeric setting that are measured, at most.
NUM_POINTS = 4


class Reach(Enum):
    """Which layers gradients flow through on account of a method.

    ``CARRYING``: from the lowest layer that carries it; ``EVERYTHING``: all of them;
    ``NOTHING``: none.
    """

    CARRYING = "carrying"
    EVERYTHING = "everything"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaterStack:
    """What a stack saves where the gradients end in one before it, as a decoder's under an encoder.

    Attributes:
        first: Bytes of its first layer, which gradients may enter at the side alone.
        more: Bytes of any other layer beyond those of its flow, such as the keys of a
            decoder's attention to the encoder.
    """

    first: int
    more: int


class ShallowModel:
    """The base model with a few layers, and what its layers save when gradients pass through.

    Attributes:
        step: For the shallow model.
        shape: Its shape.
        stacks: Its stacks.
        prefixes: Module paths in front of its layers' numbers.
    """

    def __init__(self, step: TrainingStep) -> None:
        self.step = step.shallow()
        self.shape = self.step.shape
        self.stacks = stacks_of(self.shape)
        self.prefixes = layer_prefixes(self.shape)

    def layer_of(self, path: str) -> int | None:
        """Return the layer of the shallow model that a path stands in."""
        return layer_of(path, self.prefixes)

    def split(self, sizes: Sizes) -> tuple[dict[int, dict[Label, int]], dict[Label, int]]:
        """Return sizes by layer, and those outside of the layers."""
        layers: dict[int, dict[Label, int]] = {}
        outside: dict[Label, int] = {}
        for label, num_bytes in sizes.items():
            layer = self.layer_of(label[0])
            (outside if layer is None else layers.setdefault(layer, {}))[label] = num_bytes
        return layers, outside

    @cached_property
    def bare(self) -> Any:
        """The shallow model with nothing but the head trained."""
        return self.step.build(Configuration(modules=(), learning_rate=1.0))

    @cached_property
    def head_only(self) -> Sizes:
        """What is saved where the head alone trains."""
        return self.step.saved_by_label(self.bare)

    @cached_property
    def _trained_weight(self) -> dict[int, Sizes]:
        """What is saved where one base weight of a layer trains, by layer."""
        model = self.bare
        found: dict[int, Sizes] = {}
        for stack in self.stacks:
            for layer in {stack.start, stack.top}:
                weight = self.step.first_weight(model, layer)
                weight.requires_grad_(True)
                found[layer] = self.step.saved_by_label(model)
                weight.requires_grad_(False)
        return found

    @cached_property
    def flow(self) -> tuple[int, ...]:
        """Bytes of a layer that gradients flow through, by stack."""
        flows = []
        for stack in self.stacks:
            layers, _ = self.split(self._trained_weight[stack.start])
            flows.append(sum(layers.get(stack.top, {}).values()))
        return tuple(flows)

    @cached_property
    def flow_sizes(self) -> tuple[Mapping[Label, int], ...]:
        """Storages of the top layer of each stack where gradients flow through it."""
        return tuple(
            {
                (plain_path(scope), number): size
                for (scope, number), size in self._trained_weight[stack.start].items()
                if stack.num_layers > 1 and self.layer_of(scope) == stack.top
            }
            for stack in self.stacks
        )

    @cached_property
    def flow_labels(self) -> tuple[frozenset[Label], ...]:
        """Names of all storages saved where one weight of a stack's first layer trains."""
        return tuple(
            frozenset(map(_plain_label, self._trained_weight[stack.start])) for stack in self.stacks
        )

    @cached_property
    def beyond(self) -> tuple[tuple[LaterStack, ...], ...]:
        """What gradients that end in a stack save in the stacks after it, by both."""
        found = []
        for place, stack in enumerate(self.stacks):
            layers, _ = self.split(self._trained_weight[stack.top])
            later = []
            for other, flow in zip(
                self.stacks[place + 1 :], self.flow[place + 1 :], strict=True
            ):
                start, top = (sum(layers.get(n, {}).values()) for n in (other.start, other.top))
                more = top - flow if other.num_layers > 1 else 0
                later.append(LaterStack(first=start, more=more))
            found.append(tuple(later))
        return tuple(found)

    @cached_property
    def tail(self) -> tuple[int, ...]:
        """Bytes beyond the head's own and the layers', by the stack of the lowest layer."""
        head = sum(self.head_only.values())
        return tuple(
            sum(self.split(self._trained_weight[stack.top])[1].values()) - head
            for stack in self.stacks
        )

    @cached_property
    def base_storages(self) -> Sizes:
        """Every storage that the base model saves where all of it trains."""
        model = self.bare
        frozen = [p for p in model.parameters() if not p.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(parameter.is_floating_point())
        sizes = self.step.saved_by_label(model)
        for parameter in frozen:
            parameter.requires_grad_(False)
        return {(plain_path(scope), number): size for (scope, number), size in sizes.items()}

    def stack_of(self, layer: int) -> int:
        """Return the place of the stack that a layer of the shallow model is in."""
        return next(place for place, stack in enumerate(self.stacks) if layer in stack)


def _plain_label(label: Label) -> Label:
    return (plain_path(label[0]), label[1])


def plain_path(path: str) -> str:
    """Return a module path without what injections put into it."""
    return path.removeprefix("base_model.model.").replace(".base_layer", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """What numeric settings add to a place: along each, and for each pair at the far corner.

    Attributes:
        along: By setting: its measured values, and the bytes at each beyond the smallest.
        pairs: By two settings: bytes at both largest values beyond the sum along each.
    """

    along: Mapping[str, tuple[NDArray[np.float64], Mapping[Place, Bytes]]]
    pairs: Mapping[tuple[str, str], Mapping[Place, Bytes]]

    def at(self, place: Place, settings: Mapping[str, Setting]) -> Bytes:
        """Return saved and resident bytes to add at a place."""
        total = np.zeros(2)
        for name, (values, places) in self.along.items():
            if place in places:
                total += _interpolated(settings[name], values, places[place])
        for (one, other), places in self.pairs.items():
            if place in places:
                share = _share(settings[one], self.along[one][0])
                total += places[place] * share * _share(settings[other], self.along[other][0])
        return total


def _interpolated(value: Setting, xs: NDArray[np.float64], ys: Bytes) -> Bytes:
    assert isinstance(value, int | float)
    return np.array([np.interp(float(value), xs, column) for column in ys.T])


def _share(value: Setting, xs: NDArray[np.float64]) -> float:
    assert isinstance(value, int | float)
    return float((float(value) - xs[0]) / (xs[-1] - xs[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShare:
    """What one source of one method saves in a layer.

    Attributes:
        low: Storages of the layer's flow, where it is the lowest layer that trains.
        extra: Storages besides the flow; what methods share has the same label.
        low_bytes: Bytes of the layer's flow that there are at least in the lowest layer.
    """

    low: Mapping[Any, int] = field(default_factory=dict)
    extra: Mapping[Any, int] = field(default_factory=dict)
    low_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What one variant of a method adds.

    Attributes:
        shares: By stack and source.
        outside: Bytes saved outside the layers.
        resident: Frozen bytes it brings, by place.
        growth: What the numeric settings add.
        subset_names: Sources that a module switches on by naming them.
        reach: Which layers gradients flow through.
        is_approximate: Whether it could not be measured.
    """

    shares: Mapping[Place, LayerShare]
    outside: int
    resident: Mapping[Place, float]
    growth: Growth
    subset_names: frozenset[str]
    reach: Reach = Reach.CARRYING
    is_approximate: bool = False

    def sources(self, module: Module, stack: int) -> tuple[Source, ...]:
        """Return the sources of a stack that a module trains."""
        named = {name for _, value in module.settings if isinstance(value, tuple) for name in value}
        return tuple(
            source
            for place, source in self.shares
            if place == stack and (source not in self.subset_names or source in named)
        )


class Accountant:
    """Measure methods on a shallow model.

    Args:
        shallow: The model.
        full_shape: Shape of the model in full depth, by which dimensions are read.
    """

    def __init__(self, shallow: ShallowModel, full_shape: ModelShape) -> None:
        self._shallow = shallow
        self._full_shape = full_shape
        self._site_paths: dict[tuple[int, frozenset[str]], list[tuple[str, Source]]] = {}

    def everywhere(self, method: str, settings: Mapping[str, Setting]) -> Module:
        """Return a module on every layer and site, its numeric settings at their smallest."""
        shape = self._shallow.shape
        chosen = dict(settings)
        for dimension in get_method(method).dimensions(self._full_shape):
            if dimension.kind == "subset":
                chosen[dimension.name] = dimension.values
            elif is_numeric(dimension):
                chosen[dimension.name] = min(dimension.values)
        return Module.of(method, tuple(range(shape.num_layers)), **chosen)

    def sizes(self, module: Module) -> dict[Label, int]:
        """Return what is saved where all of a module trains."""
        return self._shallow.step.saved_by_label(self._build(module))

    def account(self, method: str, settings: Mapping[str, Setting]) -> Account:
        """Measure one variant of a method.

        Args:
            method: Its name.
            settings: Every setting; sites and numeric ones are replaced.

        Raises:
            Exception: whatever building or running it on the meta device raises.
        """
        module = self.everywhere(method, settings)
        shallow = self._shallow
        model = self._build(module)
        everything = shallow.step.saved_by_label(model)
        corner = self._by_place(model, module, everything)
        dimensions = get_method(method).dimensions(self._full_shape)
        subset_names = frozenset(
            value for d in dimensions if d.kind == "subset" for value in d.values
        )
        groups = self._groups(model, subset_names)
        shares, outside, reach = self._shares(model, module, groups, subset_names)
        shares = self._corrected(shares, everything, method, has_outside=_OUTSIDE in groups)
        resident = {place: float(amount[1]) for place, amount in corner.items() if amount[1]}
        numeric = [d for d in dimensions if is_numeric(d)]
        return Account(
            shares=shares,
            outside=outside,
            resident=resident,
            growth=self._growth(module, numeric, corner),
            subset_names=subset_names,
            reach=reach,
        )

    def _corrected(
        self, shares: Mapping[Place, LayerShare], saved: Sizes, method: str, *, has_outside: bool
    ) -> dict[Place, LayerShare]:
        """Return shares that together give what is saved where the whole method trains.

        Apart they may not: a method can stand in the way of what its layer saves without it,
        as attention to longer keys does of the layer's own.
        """
        layers, _ = self._shallow.split(saved)
        corrected = dict(shares)
        for place, stack in enumerate(self._shallow.stacks):
            here = [where for where in shares if where[0] == place]
            if not here or stack.num_layers == 1:
                continue
            extra = {k: v for where in here for k, v in shares[where].extra.items()}
            low = {k: v for where in here for k, v in shares[where].low.items()}
            start, top = (sum(layers.get(n, {}).values()) for n in (stack.start, stack.top))
            more = top - self._shallow.flow[place] - sum(extra.values())
            lower = max(shares[where].low_bytes for where in here)
            below = start - max(lower, sum(low.values())) - sum(extra.values()) - more
            if has_outside or lower:
                below = 0
            for where in here:
                mine, part = shares[where], (method, "whole", where[1])
                corrected[where] = LayerShare(
                    low={**mine.low, part: below // len(here)} if below else mine.low,
                    extra={**mine.extra, part: more // len(here)} if more else mine.extra,
                    low_bytes=mine.low_bytes,
                )
        return corrected

    def _build(self, module: Module) -> Any:
        return self._shallow.step.build(Configuration(modules=(module,), learning_rate=1.0))

    def _groups(self, model: Any, names: frozenset[str]) -> _Groups:
        """Return the trainable parameters, head aside, by layer and source.

        What layers share belongs to no layer, nor does what stands outside of them.
        """
        shape = self._shallow.shape
        layers: dict[int, set[int | None]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if parameter.requires_grad:
                layers.setdefault(id(parameter), set()).add(self._shallow.layer_of(name))
        groups: _Groups = {}
        for name, parameter in trainable_parameters(model).items():
            if any(f".{path}." in f".{plain_path(name)}" for path in shape.head_paths):
                continue
            layer = self._shallow.layer_of(name)
            if layer is None or len(layers[id(parameter)]) > 1:
                groups.setdefault(_OUTSIDE, []).append(parameter)
            else:
                source = self._source_of(name, layer, names)
                groups.setdefault((layer, source), []).append(parameter)
        return groups

    def _source_of(self, path: str, layer: int, names: frozenset[str]) -> Source:
        """Return which of the named sites of a layer a path stands in, "" where in none."""
        key = (layer, names)
        if key not in self._site_paths:
            found = {
                f".{module_path}.": site.site
                for site in self._shallow.shape.all_sites
                if site.is_in_layers and site.site in names and site.layers_among((layer,))
                if self._shallow.stack_of(site.first_layer) == self._shallow.stack_of(layer)
                for module_path in (site.path_in(layer), site.end_path_in(layer))
            }
            self._site_paths[key] = sorted(found.items(), key=lambda item: -len(item[0]))
        plain = f".{plain_path(path)}."
        return next((site for part, site in self._site_paths[key] if part in plain), "")

    def _shares(
        self, model: Any, module: Module, groups: _Groups, names: frozenset[str]
    ) -> tuple[dict[Place, LayerShare], int, Reach]:
        """Return what each source saves, what is saved outside, and which layers are reached."""
        shallow = self._shallow
        shares: dict[Place, LayerShare] = {}
        outside = 0
        reach = Reach.CARRYING if groups else Reach.NOTHING
        for place, stack in enumerate(shallow.stacks):
            through = self._through(model, groups, place)
            own = self._own(through, place, names)
            tops = [group for group in groups if group[0] == stack.top]
            if own and len(tops) > 1:
                # Frozen, it still saves tensors, so one site's cannot be told from another's.
                for _, source in tops:
                    shares[place, source] = self._share_alone(module, source, place, names)
                continue
            for group in tops:
                saved = self._saved(model, groups, {group})
                share = self._share(model, module.method, saved, through, own, place)
                shares[place, group[1]] = share
        if _OUTSIDE in groups:
            outside, from_outside = self._from_outside(model, module, groups)
            for where, share in from_outside.items():
                mine = shares.get(where, LayerShare())
                shares[where] = LayerShare(
                    low=mine.low,
                    extra={**mine.extra, **share.extra},
                    low_bytes=share.low_bytes,
                )
            if not from_outside and len(groups) == 1:
                reach = Reach.NOTHING
            elif from_outside and self._enters_below(module):
                reach = Reach.EVERYTHING
        return shares, outside, reach

    def _through(self, model: Any, groups: _Groups, place: int) -> dict[Label, int]:
        """Return what is saved up to the top layer of a stack where its bottom layer trains."""
        stack = self._shallow.stacks[place]
        bottom = next((group for group in groups if group[0] == stack.start), None)
        if bottom is None or stack.num_layers == 1:
            return {}
        return {
            label: size
            for label, size in self._saved(model, groups, {bottom}).items()
            if (layer := self._shallow.layer_of(label[0])) is None or layer in stack
        }

    def _share(
        self,
        model: Any,
        method: str,
        saved: Mapping[Label, int],
        through: Mapping[Label, int],
        own: Mapping[Label, int],
        place: int,
    ) -> LayerShare:
        """Return what is saved for the top layer of a stack, in the flow and besides it."""
        top = self._shallow.stacks[place].top
        flow = self._shallow.flow_labels[place]
        replaced = self._named(
            {
                label: size
                for label, size in through.items()
                if label not in own
                # What a layer takes in is made by the layer below it.
                and (self._shallow.layer_of(label[0]) == top or _plain_label(label) in flow)
            }
        )
        low: dict[Any, int] = {}
        extra: dict[Any, int] = {}
        for label, size in {**own, **saved}.items():
            layer = self._shallow.layer_of(label[0])
            if layer is None or layer > top:
                continue
            if label in replaced:
                low[replaced[label]] = size
            else:
                extra[self._shared_label(model, method, label, size)] = size
        return LayerShare(low=low, extra=extra)

    def _named(self, sizes: Sizes) -> dict[Label, tuple[str, int, int]]:
        """Return a name for each storage that does not depend on how its module is wrapped.

        It is the site, or else the path, then the size, and a number among the equal ones.
        """
        shallow = self._shallow
        sites = frozenset(
            site.site for site in (*shallow.shape.sites, *shallow.shape.norms) if site.is_in_layers
        )
        numbers: Counter[tuple[str, int]] = Counter()
        names: dict[Label, tuple[str, int, int]] = {}
        for label, size in sorted(sizes.items()):
            layer = shallow.layer_of(label[0])
            site = "" if layer is None else self._source_of(label[0], layer, sites)
            place = f"{layer}.{site}" if site else plain_path(label[0])
            names[label] = (place, size, numbers[place, size])
            numbers[place, size] += 1
        return names

    def _share_alone(
        self, module: Module, source: Source, place: int, names: frozenset[str]
    ) -> LayerShare:
        """Return what one source saves where no other carries the method."""
        model = self._build(_restricted(module, source))
        groups = self._groups(model, names)
        through = self._through(model, groups, place)
        own = self._own(through, place, names)
        top = self._shallow.stacks[place].top
        saved = self._saved(model, groups, {group for group in groups if group[0] == top})
        return self._share(model, module.method, saved, through, own, place)

    def _own(
        self, through: Mapping[Label, int], place: int, names: frozenset[str]
    ) -> dict[Label, int]:
        """Return what a frozen method saves in a layer on top of what the layer saves itself.

        Storages of the method may also stand in place of the layer's own, such as the sum that
        a wrapped layer gives out in place of its product.
        """
        shallow = self._shallow
        top = shallow.stacks[place].top
        left: Counter[tuple[Source, int]] = Counter(
            (self._source_of(scope, top, names), size)
            for (scope, _), size in shallow.flow_sizes[place].items()
        )
        own: dict[Label, int] = {}
        here = [label for label in through if shallow.layer_of(label[0]) == top]
        # Where a storage of the base model is still there, it stands for itself.
        base = shallow.flow_sizes[place]
        here.sort(key=lambda label: (_plain_label(label) not in base, label))
        for label in here:
            key = (self._source_of(label[0], top, names), through[label])
            if left[key] > 0:
                left[key] -= 1
            else:
                own[label] = through[label]
        return own

    def _enters_below(self, module: Module) -> bool:
        """Tell whether gradients go through layers below all those that carry the module.

        Found with the module on the top layer alone; one that cannot stand there is on all.
        """
        shallow = self._shallow
        stack = shallow.stacks[-1]
        if not get_method(module.method).is_placeable or stack.num_layers == 1:
            return False
        alone = Module(method=module.method, layers=(stack.top,), settings=module.settings)
        layers, _ = shallow.split(self.sizes(alone))
        return sum(layers.get(stack.start, {}).values()) > shallow.flow[-1] / 2

    def _from_outside(
        self, model: Any, module: Module, groups: _Groups
    ) -> tuple[int, dict[Place, LayerShare]]:
        """Return what parameters of no layer save outside the layers and in each layer.

        These are prompts, embeddings, vectors that layers share, or a last normalisation.
        """
        shallow = self._shallow
        layers, outside = shallow.split(self._saved(model, groups, {_OUTSIDE}))
        shares = self._within_layers(layers, (module.method, ""), "")
        sources = sorted({name for _, v in module.settings if isinstance(v, tuple) for name in v})
        if shares and len(sources) > 1:
            for source in sources:
                sizes, _ = shallow.split(self.sizes(_restricted(module, source)))
                shares |= self._within_layers(sizes, (module.method, source), source)
            for place in [place for place, source in shares if not source]:
                shares[place, ""] = LayerShare(low_bytes=shares[place, ""].low_bytes)
        first = min((place for place, _ in shares), default=None)
        tail = 0 if first is None else shallow.tail[first]
        head = sum(shallow.head_only.values())
        return max(0, sum(outside.values()) - head - tail), shares

    def _within_layers(
        self, layers: Mapping[int, Mapping[Label, int]], label: Any, source: Source
    ) -> dict[Place, LayerShare]:
        """Return what is saved in the layers of each stack that gradients flow through."""
        shares = {}
        for place, stack in enumerate(self._shallow.stacks):
            bottom, top = (sum(layers.get(n, {}).values()) for n in (stack.start, stack.top))
            flow = self._shallow.flow[place]
            if top >= flow / 2:
                rest = max(0, top - flow)
                shares[place, source] = LayerShare(
                    low_bytes=max(0, bottom - rest), extra={label: rest} if rest else {}
                )
        return shares

    def _saved(
        self,
        model: Any,
        groups: _Groups,
        only: Set[_Group],
    ) -> dict[Label, int]:
        """Return what is saved where these groups train and no others."""
        for key, group in groups.items():
            for parameter in group:
                parameter.requires_grad_(key in only)
        return self._shallow.step.saved_by_label(model)

    def _shared_label(self, model: Any, method: str, label: Label, size: int) -> Any:
        """Return a label that other methods give as well where the base model made the storage."""
        scope, number = label
        is_wrapper = f"{scope}.base_layer" in self._module_names(model)
        plain = (plain_path(scope), number)
        if not is_wrapper and self._shallow.base_storages.get(plain) == size:
            return plain
        return (method, *label)

    def _module_names(self, model: Any) -> frozenset[str]:
        if self._names[0] is not model:
            self._names = (model, frozenset(name for name, _ in model.named_modules()))
        return self._names[1]

    _names: tuple[Any, frozenset[str]] = (None, frozenset())

    def _by_place(
        self, model: Any, module: Module, sizes: Mapping[Label, int]
    ) -> dict[Place, Bytes]:
        """Return saved and frozen resident bytes in the top layer of each stack, by source."""
        shallow = self._shallow
        names = frozenset(
            name for _, value in module.settings if isinstance(value, tuple) for name in value
        )
        total: dict[Place, Bytes] = {}

        def add(path: str, column: int, amount: float) -> None:
            layer = shallow.layer_of(path)
            place = OUTSIDE
            if layer is not None:
                stack = shallow.stack_of(layer)
                if layer == shallow.stacks[stack].start and layer != shallow.stacks[stack].top:
                    place = (stack, LOWEST)
                elif layer != shallow.stacks[stack].top:
                    return
                else:
                    place = (stack, self._source_of(path, layer, names))
            total.setdefault(place, np.zeros(2))[column] += amount

        for (scope, _), num_bytes in sizes.items():
            add(scope, 0, num_bytes)
        for name, frozen in shallow.step.frozen_bytes(model):
            add(name, 1, frozen)
        for name, frozen in shallow.step.frozen_bytes(shallow.bare):
            add(name, 1, -frozen)
        return total

    def _growth(
        self, module: Module, numeric: Sequence[Dimension], corner: Mapping[Place, Bytes]
    ) -> Growth:
        along: dict[str, tuple[NDArray[np.float64], Mapping[Place, Bytes]]] = {}
        for dimension in numeric:
            ordered = sorted(dimension.values)
            points = {ordered[-1]: self._beyond(module, corner, {dimension.name: ordered[-1]})}
            if not points[ordered[-1]]:
                continue
            for value in _between(ordered):
                points[value] = self._beyond(module, corner, {dimension.name: value})
                if _is_on_line(ordered[0], value, points[value], ordered[-1], points[ordered[-1]]):
                    break
            values = np.array([ordered[0], *sorted(points)], dtype=np.float64)
            places = dict.fromkeys(place for found in points.values() for place in found)
            nothing = np.zeros(2)
            along[dimension.name] = (
                values,
                {
                    place: np.stack(
                        [nothing, *(points[v].get(place, nothing) for v in sorted(points))]
                    )
                    for place in places
                },
            )
        pairs: dict[tuple[str, str], dict[Place, Bytes]] = {}
        for one, other in combinations(along, 2):
            largest = {name: _plain(along[name][0][-1], module, name) for name in (one, other)}
            both = self._beyond(module, corner, largest)
            alone: dict[Place, Bytes] = {}
            for name in (one, other):
                for place, amounts in along[name][1].items():
                    alone[place] = alone.get(place, np.zeros(2)) + amounts[-1]
            rest = {
                place: both.get(place, np.zeros(2)) - alone.get(place, np.zeros(2))
                for place in {*both, *alone}
            }
            pairs[one, other] = {place: amount for place, amount in rest.items() if amount.any()}
        return Growth(along=along, pairs=pairs)

    def _beyond(
        self, module: Module, corner: Mapping[Place, Bytes], settings: Mapping[str, Setting]
    ) -> dict[Place, Bytes]:
        """Return bytes by place beyond those of the corner; places without any are left out."""
        changed = Module.of(module.method, module.layers, **{**module.as_dict(), **settings})
        model = self._build(changed)
        found = self._by_place(model, changed, self._shallow.step.saved_by_label(model))
        nothing = np.zeros(2)
        more = {
            place: found.get(place, nothing) - corner.get(place, nothing)
            for place in {*found, *corner}
        }
        return {place: amount for place, amount in more.items() if amount.any()}


def _restricted(module: Module, source: Source) -> Module:
    """Return a module on one of its sites."""
    settings = {
        name: (source,) if isinstance(value, tuple) and source in value else value
        for name, value in module.settings
    }
    return Module.of(module.method, module.layers, **settings)


def is_numeric(dimension: Dimension) -> bool:
    """Tell whether a dimension is a number that sizes may depend on."""
    return (
        dimension.kind == "ordinal"
        and len(dimension.values) > 1
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in dimension.values)
    )


def _between(ordered: Sequence[Any]) -> list[Any]:
    """Return the values to measure between the ends, the middle first."""
    inner = ordered[1:-1]
    middle = inner[len(inner) // 2 :][:1]
    if len(inner) <= NUM_POINTS - 2:
        return [*middle, *(value for value in inner if value not in middle)]
    places = np.linspace(0, len(inner) - 1, NUM_POINTS - 1).round().astype(int)[:-1]
    return [*middle, *(inner[place] for place in places if inner[place] not in middle)]


def _is_on_line(
    start: float,
    value: float,
    at_value: Mapping[Place, Bytes],
    end: float,
    at_end: Mapping[Place, Bytes],
) -> bool:
    """Tell whether bytes that begin at nothing grow in proportion, to the byte."""
    share = (value - start) / (end - start)
    return at_value.keys() == at_end.keys() and all(
        np.allclose(at_value[place], at_end[place] * share, rtol=0, atol=0.5) for place in at_end
    )


def _plain(value: float, module: Module, name: str) -> Setting:
    """Return a measured value as the type the setting has."""
    return int(value) if isinstance(module[name], int) else float(value)
