"""What each method adds to the memory of a training step, from a few passes of a shallow model.

Transformer layers are alike, and which tensors autograd saves is monotone in what trains: a
graph node saves a tensor as soon as *one* of the inputs that need it requires a gradient. With
``T(x)`` the storages saved where only ``x`` trains, several things that train together save
exactly the union of their ``T``. Storages are told apart by
:data:`~autopeft.workers.memory.accounting.Label`, so that shared ones (the input of query, key
and value) count once, also between methods.

The passes run on a model cut to its first layers, with the method everywhere and its numeric
settings at their smallest; what these add is :mod:`~autopeft.workers.memory.growth`'s to measure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from autopeft.search_spaces.configuration import Configuration, Module, Setting
from autopeft.search_spaces.method import get_method
from autopeft.search_spaces.targets import PARAMETER_NAMES, SITE_GROUPS
from autopeft.workers.adapter_tensors import trainable_parameters
from autopeft.workers.memory.accounting import Label
from autopeft.workers.memory.accounts import (
    LOWEST,
    OUTSIDE,
    VIRTUAL_TOKENS,
    Account,
    LayerShare,
    Reach,
)
from autopeft.workers.memory.fixed_sites import FixedSites
from autopeft.workers.memory.growth import Bytes, Place, Source, is_numeric, measured_growth
from autopeft.workers.memory.optimizers import Optimizer, trained_tensors
from autopeft.workers.memory.shallow import ShallowModel, Sizes, plain_label, plain_path

#: Layer, or None outside of them, and source of parameters that train together.
_Group = tuple[int | None, Source]
_Groups = dict[_Group, list[Any]]
_OUTSIDE: _Group = (None, "")


class Accountant:
    """Measure methods on a shallow model.

    Args:
        shallow: The model.
        whole: The model in full depth; by its shape dimensions are read.
        optimizer: Whose state and temporaries come with what trains.

    Attributes:
        shallow: The model.
        optimizer: The optimiser.
        whole: The model in full depth.
        full_shape: Shape of the model in full depth.
    """

    def __init__(self, shallow: ShallowModel, whole: ShallowModel, optimizer: Optimizer) -> None:
        self.shallow = shallow
        self.optimizer = optimizer
        self.whole = whole
        self.full_shape = whole.shape
        self._fixed_sites = FixedSites(self)
        self._site_paths: dict[tuple[int, frozenset[str]], list[tuple[str, Source]]] = {}

    def everywhere(
        self, method: str, settings: Mapping[str, Setting], *, is_fixed: bool = False
    ) -> Module:
        """Return a module on every layer, its numeric settings at their smallest.

        It is on every site too, of stacked experts on those that the settings name; where sites
        are fixed, on those that the settings name alone.
        """
        shape = self.shallow.shape
        chosen = dict(settings)
        for dimension in get_method(method).dimensions(self.full_shape):
            if dimension.name == get_method(method).counted_by:
                chosen[dimension.name] = shape.num_layers
            elif dimension.kind == "subset" and not is_fixed:
                given = settings.get(dimension.name, ())
                assert isinstance(given, tuple)
                chosen[dimension.name] = tuple(
                    value
                    for value in dimension.values
                    if value not in PARAMETER_NAMES or value in given
                )
            elif is_numeric(dimension):
                chosen[dimension.name] = min(dimension.values)
        return Module.of(method, tuple(range(shape.num_layers)), **chosen)

    def sizes(self, module: Module) -> dict[Label, int]:
        """Return what is saved where all of a module trains."""
        return self.shallow.step.saved_by_label(self.build(module))

    def state_share(
        self, method: str, settings: Mapping[str, Setting], *, is_fixed: bool = False
    ) -> float:
        """Return the optimiser's state for each byte that trains of a method, head aside.

        Args:
            method: Its name.
            settings: Every setting; sites are replaced by all of them unless they are fixed.
            is_fixed: Whether they are.
        """
        module = self.everywhere(method, settings, is_fixed=is_fixed)
        counted = get_method(method).counted_by
        numbers = {
            dimension.name: settings[dimension.name]
            for dimension in get_method(method).dimensions(self.full_shape)
            if is_numeric(dimension) and dimension.name in settings and dimension.name != counted
        }
        chosen = Module.of(method, module.layers, **{**module.as_dict(), **numbers})
        whole, head = (trained_tensors(each) for each in (self.build(chosen), self.shallow.bare))
        state = self.optimizer.state_bytes(whole) - self.optimizer.state_bytes(head)
        size = sum(tensor.nbytes for tensor in whole) - sum(tensor.nbytes for tensor in head)
        return state / size if size else 0.0

    def is_entangled(self, method: str, settings: Mapping[str, Setting]) -> bool:
        """Tell whether sites or layers share parameters, or the method brings frozen ones."""
        model = self.build(self.everywhere(method, settings))
        names = Counter(
            id(parameter)
            for _, parameter in model.named_parameters(remove_duplicate=False)
            if parameter.requires_grad
        )
        shallow = self.shallow.step
        frozen = shallow.weight_bytes(model) - shallow.weight_bytes(self.shallow.bare)
        return frozen != 0 or max(names.values(), default=0) > 1

    def account(
        self, method: str, settings: Mapping[str, Setting], *, is_fixed: bool = False
    ) -> Account:
        """Measure one variant of a method.

        Args:
            method: Its name.
            settings: Every setting; numeric ones are replaced, and sites unless they are fixed.
            is_fixed: Whether it is measured on the very sites of the settings.

        Raises:
            Exception: whatever building or running it on the meta device raises.
        """
        module = self.everywhere(method, settings, is_fixed=is_fixed)
        if is_fixed and self.can_stand_alone(method):
            names = {name for name, value in settings.items() if isinstance(value, tuple)}
            plain = tuple(pair for pair in sorted(settings.items()) if pair[0] not in names)
            found = self._fixed_sites.account(module, (method, *plain))
            if found is not None:
                return found
        shallow = self.shallow
        shallow.step.weight_labels.clear()
        model = self.build(module)
        everything = shallow.step.saved_by_label(model)
        corner = self._by_place(model, module, everything)
        dimensions = get_method(method).dimensions(self.full_shape)
        subset_names = frozenset(
            value for d in dimensions if d.kind == "subset" and not is_fixed for value in d.values
        )
        groups = self._groups(model, subset_names)
        shares, outside, reach = self._shares(model, module, groups, subset_names)
        shares = self.corrected(shares, everything, method, has_outside=_OUTSIDE in groups)
        of_weights = self.of_weights(shares, method)
        resident = {place: float(amount[1]) for place, amount in corner.items() if amount[1]}
        trained = trained_tensors(self.build(module))
        excess = self._excess(module)
        corner |= _at_worst(excess)
        numeric = [d for d in dimensions if is_numeric(d)]
        is_placeable = get_method(method).is_placeable
        return Account(
            shares=shares,
            outside=outside,
            resident=resident,
            growth=measured_growth(
                module, numeric, lambda settings: self._beyond(module, corner, settings)
            ),
            subset_names=subset_names,
            reach=reach,
            excess=excess,
            excess_alone=self._excess_alone(module),
            of_weights=of_weights,
            longer=self.longer(module),
            has_lowest=not is_placeable,
            state_share=self.optimizer.state_bytes(trained)
            / max(1, sum(tensor.nbytes for tensor in trained)),
            step_bytes=self.optimizer.step_bytes(trained, "cpu"),
        )

    def of_weights(self, shares: Mapping[Place, LayerShare], method: str) -> frozenset[Any]:
        """Return the storages of shares that do not grow with the text."""
        labels = self.shallow.step.weight_labels
        return frozenset(
            key
            for share in shares.values()
            for key in share.extra
            if key[0] == method and key[1:] in labels
        )

    def longer(self, module: Module, model: Any = None) -> float:
        """Return the part of the text's length that one virtual token of a method adds to it.

        0 where the layers compute no more tokens for it, as where it adds keys alone.
        """
        number = dict(module.settings).get(VIRTUAL_TOKENS)
        if not isinstance(number, int):
            return 0.0
        step = self.shallow.step
        longer = step.output_bytes(self.build(module) if model is None else model)
        return (longer / step.layer_output_bytes - 1.0) / number

    def _excess(self, module: Module) -> dict[Place, float]:
        """Return what a module's worst moments add to what the layers keep.

        A method that stands on every layer or on none may hold something for all of them at
        once, as a prefix does its keys and values: it is measured in full depth.
        """
        model = self.shallow
        if not get_method(module.method).is_placeable:
            model = self.whole
            module = replace(module, layers=tuple(range(model.shape.num_layers)))
        chosen = Configuration(modules=(module,), learning_rate=1.0)
        return model.excess_of(model.step.build(chosen))

    @cached_property
    def site_names(self) -> frozenset[str]:
        """Names of all sites inside the layers."""
        return frozenset(s.site for s in self.shallow.shape.all_sites if s.is_in_layers)

    @staticmethod
    def can_stand_alone(method: str) -> bool:
        """Tell whether a method can be put on one layer, if only by training no other."""
        found = get_method(method)
        return found.is_placeable or found.counted_by is not None

    def _excess_alone(self, module: Module) -> dict[frozenset[Source], dict[Place, float]]:
        """Return the same for each site of a module that has several, and for those of a kind."""
        sites = {name for _, value in module.settings if isinstance(value, tuple) for name in value}
        if len(sites) < 2 or not get_method(module.method).is_placeable:
            return {}
        found = {}
        kinds = {frozenset(sites.intersection(names)) for names in SITE_GROUPS.values()}
        groups = {frozenset({site}) for site in sites} | {
            k for k in kinds if 1 < len(k) < len(sites)
        }
        for group in sorted(groups, key=sorted):
            alone = _restricted(module, *group)
            # The model may read a site's weight without calling the layer, as Mamba does.
            if any(self.shallow.layer_of(scope) is not None for scope, _ in self.sizes(alone)):
                found[group] = self._excess(alone)
        return found

    def corrected(
        self, shares: Mapping[Place, LayerShare], saved: Sizes, method: str, *, has_outside: bool
    ) -> dict[Place, LayerShare]:
        """Return shares that together give what is saved where the whole method trains.

        Apart they may not: a method can stand in the way of what its layer saves without it,
        as attention to longer keys does of the layer's own.
        """
        layers, _ = self.shallow.split(saved)
        corrected = dict(shares)
        for place, stack in enumerate(self.shallow.stacks):
            here = [where for where in shares if where[0] == place]
            if len(here) != 1 or stack.num_layers == 1:
                continue  # several sources have been told apart, and add up
            mine = shares[here[0]]
            start, top = (sum(layers.get(n, {}).values()) for n in (stack.start, stack.top))
            own = (n for label, n in mine.extra.items() if not self._is_below(label, stack.top))
            more = top - sum(self.shallow.flow_sizes[place].values()) - sum(own)
            below = start - sum(mine.low.values()) - sum(mine.extra.values()) - more
            is_known = bool(mine.low_bytes) or has_outside
            rest = (method, "whole", "")
            corrected[here[0]] = LayerShare(
                low=mine.low if is_known else {**mine.low, rest: below},
                extra={**mine.extra, rest: more},
                low_bytes=mine.low_bytes,
                from_below=mine.from_below,
            )
        return corrected

    def _is_below(self, label: Any, top: int) -> bool:
        """Tell whether the layer below the top one made a storage, such as what a site takes in."""
        scope = label[-2]
        layer = self.shallow.layer_of(scope) if isinstance(scope, str) else None
        return layer is not None and layer != top

    def build(self, module: Module) -> Any:
        """Return the shallow model with a module."""
        return self.shallow.step.build(Configuration(modules=(module,), learning_rate=1.0))

    def _groups(self, model: Any, names: frozenset[str]) -> _Groups:
        """Return the trainable parameters, head aside, by layer and source.

        What layers share belongs to no layer, nor does what stands outside of them.
        """
        shape = self.shallow.shape
        layers: dict[int, set[int | None]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if parameter.requires_grad:
                layers.setdefault(id(parameter), set()).add(self.shallow.layer_of(name))
        groups: _Groups = {}
        for name, parameter in trainable_parameters(model).items():
            if any(f".{path}." in f".{plain_path(name)}" for path in shape.head_paths):
                continue
            layer = self.shallow.layer_of(name)
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
                for site in self.shallow.shape.all_sites
                if site.is_in_layers and site.site in names and site.layers_among((layer,))
                if self.shallow.stack_of(site.first_layer) == self.shallow.stack_of(layer)
                for module_path in (site.path_in(layer), site.end_path_in(layer))
            }
            self._site_paths[key] = sorted(found.items(), key=lambda item: -len(item[0]))
        plain = f".{plain_path(path)}."
        return next((site for part, site in self._site_paths[key] if part in plain), "")

    def _shares(
        self, model: Any, module: Module, groups: _Groups, names: frozenset[str]
    ) -> tuple[dict[Place, LayerShare], int, Reach]:
        """Return what each source saves, what is saved outside, and which layers are reached."""
        shallow = self.shallow
        shares: dict[Place, LayerShare] = {}
        outside = 0
        reach = Reach.CARRYING if groups else Reach.NOTHING
        for place, stack in enumerate(shallow.stacks):
            through = self._through(model, groups, place)
            own = self.own(through, place, names)
            tops = [group for group in groups if group[0] == stack.top]
            if own and len(tops) > 1:
                # Frozen, it still saves tensors, so one site's cannot be told from another's.
                for _, source in tops:
                    shares[place, source] = self._share_alone(module, source, place, names)
                continue
            for group in tops:
                saved = self._saved(model, groups, {group})
                share = self.share(model, module.method, saved, through, own, place)
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
        stack = self.shallow.stacks[place]
        bottom = next((group for group in groups if group[0] == stack.start), None)
        if bottom is None or stack.num_layers == 1:
            return {}
        return {
            label: size
            for label, size in self._saved(model, groups, {bottom}).items()
            if (layer := self.shallow.layer_of(label[0])) is None or layer in stack
        }

    def share(
        self,
        model: Any,
        method: str,
        saved: Mapping[Label, int],
        through: Mapping[Label, int],
        own: Mapping[Label, int],
        place: int,
    ) -> LayerShare:
        """Return what is saved for the top layer of a stack, in the flow and besides it."""
        top = self.shallow.stacks[place].top
        flow = self.shallow.flow_labels[place]
        replaced = self._named(
            {
                label: size
                for label, size in through.items()
                if label not in own
                # What a layer takes in is made by the layer below it.
                and (self.shallow.layer_of(label[0]) == top or plain_label(label) in flow)
            }
        )
        low: dict[Any, int] = {}
        extra: dict[Any, int] = {}
        for label, size in {**own, **saved}.items():
            layer = self.shallow.layer_of(label[0])
            if layer is None or layer > top:
                continue
            if label in replaced:
                low[replaced[label]] = size
            else:
                extra[self.shared_label(model, method, label, size)] = size
        layers = ((self.shallow.layer_of(label[0]), size) for label, size in saved.items())
        below = sum(size for layer, size in layers if layer is not None and layer < top)
        return LayerShare(low=low, extra=extra, from_below=below)

    def _named(self, sizes: Sizes) -> dict[Label, tuple[str, int, int]]:
        """Return a name for each storage that does not depend on how its module is wrapped.

        It is the site, or else the path, then the size, and a number among the equal ones.
        """
        shallow = self.shallow
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
        model = self.build(_restricted(module, source))
        groups = self._groups(model, names)
        through = self._through(model, groups, place)
        own = self.own(through, place, names)
        top = self.shallow.stacks[place].top
        saved = self._saved(model, groups, {group for group in groups if group[0] == top})
        return self.share(model, module.method, saved, through, own, place)

    def own(
        self, through: Mapping[Label, int], place: int, names: frozenset[str]
    ) -> dict[Label, int]:
        """Return what a frozen method saves in a layer on top of what the layer saves itself.

        Storages of the method may also stand in place of the layer's own, such as the sum that
        a wrapped layer gives out in place of its product.
        """
        shallow = self.shallow
        top = shallow.stacks[place].top
        left: Counter[tuple[Source, int]] = Counter(
            (self._source_of(scope, top, names), size)
            for (scope, _), size in shallow.flow_sizes[place].items()
        )
        own: dict[Label, int] = {}
        here = [label for label in through if shallow.layer_of(label[0]) == top]
        # Where a storage of the base model is still there, it stands for itself.
        base = shallow.flow_sizes[place]
        here.sort(key=lambda label: (plain_label(label) not in base, label))
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
        shallow = self.shallow
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
        shallow = self.shallow
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
        for place, stack in enumerate(self.shallow.stacks):
            bottom, top = (sum(layers.get(n, {}).values()) for n in (stack.start, stack.top))
            flow = self.shallow.flow[place]
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
        return self.shallow.step.saved_by_label(model)

    def shared_label(self, model: Any, method: str, label: Label, size: int) -> Any:
        """Return a label that other methods give as well where the base model made the storage."""
        scope, number = label
        is_wrapper = f"{scope}.base_layer" in self._module_names(model)
        plain = (plain_path(scope), number)
        if not is_wrapper and self.shallow.base_storages.get(plain) == size:
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
        shallow = self.shallow
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
            total.setdefault(place, np.zeros(3))[column] += amount

        for label, num_bytes in sizes.items():
            add(label[0], 0, num_bytes)
            if label in shallow.step.weight_labels:
                add(label[0], 2, num_bytes)
        for name, frozen in shallow.step.frozen_bytes(model):
            add(name, 1, frozen)
        for name, frozen in shallow.step.frozen_bytes(shallow.bare):
            add(name, 1, -frozen)
        return total

    def _beyond(
        self, module: Module, corner: Mapping[Place, Bytes], settings: Mapping[str, Setting]
    ) -> dict[Place, Bytes]:
        """Return bytes by place beyond those of the corner; places without any are left out."""
        changed = Module.of(module.method, module.layers, **{**module.as_dict(), **settings})
        model = self.build(changed)
        saved = self.shallow.step.saved_by_label(model)
        found = self._by_place(model, changed, saved)
        found |= _at_worst(self._excess(changed))
        nothing = np.zeros(3)
        more = {
            place: found.get(place, nothing) - corner.get(place, nothing)
            for place in {*found, *corner}
        }
        return {place: amount for place, amount in more.items() if amount.any()}


def _at_worst(excess: Mapping[Place, float]) -> dict[Place, Bytes]:
    return {place: np.array([num_bytes, 0.0, 0.0]) for place, num_bytes in excess.items()}


def _restricted(module: Module, *sources: Source) -> Module:
    """Return a module on some of its sites; on its stacked experts where the source is ""."""
    settings: dict[str, Setting] = {}
    for name, value in module.settings:
        settings[name] = value
        if isinstance(value, tuple):
            stacked = tuple(each for each in value if each in PARAMETER_NAMES)
            if chosen := tuple(each for each in value if each in sources):
                settings[name] = chosen
            elif stacked and sources == ("",):
                settings[name] = stacked
    return Module.of(module.method, module.layers, **settings)
