"""What each variant of a method saves, measured once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from autopeft.records import SiteShape
from autopeft.search_spaces.configuration import Configuration, Module, Setting
from autopeft.search_spaces.method import Dimension, get_method
from autopeft.search_spaces.targets import PARAMETER_NAMES, SITE_GROUPS
from autopeft.workers.memory.accountant import Accountant
from autopeft.workers.memory.accounting import Label
from autopeft.workers.memory.accounts import Account, LayerShare
from autopeft.workers.memory.base_model import BaseModel
from autopeft.workers.memory.growth import Growth, Place, is_numeric
from autopeft.workers.memory.placed import Placed
from autopeft.workers.memory.shallow import ShallowModel

if TYPE_CHECKING:
    from autopeft.workers.memory.predicting import Sum

#: Part of what a layer keeps that the worst moments of two variants may differ by and count as one.
NEGLIGIBLE = 0.05

Settings = tuple[tuple[str, Setting], ...]
#: A method's name, and the settings that decide which storages there are at all.
Variant = tuple[str, Settings]


class Variants:
    """Accounts of methods, one for all settings that differ in numbers alone.

    Args:
        base: The model.
        sum_of: Adds up one module on every layer, given its account.
    """

    def __init__(self, base: BaseModel, sum_of: Callable[[Module, Account], Sum]) -> None:
        self._base = base
        self._sum_of = sum_of
        self._accounts: dict[Variant, Account] = {}
        self._dimensions: dict[str, tuple[Dimension, ...]] = {}
        self._entangled: dict[str, bool] = {}
        self._flat: dict[tuple[str, str, Setting], bool] = {}
        self._usual: dict[str, tuple[Mapping[Label, int], Mapping[Place, float]]] = {}
        self._state_shares: dict[Any, float] = {}

    @property
    def num_known(self) -> int:
        """Variants that were measured."""
        return len(self._accounts)

    def account(self, method: str, settings: Mapping[str, Setting]) -> Account:
        """Return what a method with these settings saves."""
        is_fixed = self._is_fixed(method, settings)
        variant = self._variant(method, settings, is_fixed=is_fixed)
        if variant not in self._accounts:
            account = self._new_account(*variant, is_fixed=is_fixed)
            self._accounts[variant] = replace(account, method=method)
        return self._accounts[variant]

    def state_share(self, placed: Placed) -> float:
        """Return the optimiser's state for each byte that trains of what stands on a layer.

        Where this is not the same for tensors of all sizes, the module is built with its own
        numbers, once for each set of them, on every layer.
        """
        settings, account = placed.settings, placed.account
        name = account.method
        if self._base.optimizer.is_even or self.accountant is None:
            return account.state_share
        is_fixed = self._is_fixed(name, settings)
        method, named = self._variant(name, settings, is_fixed=is_fixed)
        numbers = {
            dimension.name: settings[dimension.name]
            for dimension in self._dimensions_of(method)
            if is_numeric(dimension) and dimension.name in settings
        }
        key = (method, named, tuple(sorted(numbers.items())))
        if key not in self._state_shares:
            chosen = {**dict(named), **numbers}
            try:
                share = self.accountant.state_share(method, chosen, is_fixed=is_fixed)
            except Exception:  # whatever a method does that has no answer on the meta device
                share = account.state_share
            self._state_shares[key] = share
        return self._state_shares[key]

    def _dimensions_of(self, method: str) -> tuple[Dimension, ...]:
        if method not in self._dimensions:
            self._dimensions[method] = tuple(get_method(method).dimensions(self._base.shape))
        return self._dimensions[method]

    def _is_fixed(self, method: str, settings: Mapping[str, Setting]) -> bool:
        """Tell whether a method is to be measured on the very sites it stands on.

        That is where they are a group as spaces name them, or where its sites do not add up.
        """
        subsets = [d for d in self._dimensions_of(method) if d.kind == "subset"]
        if all(_is_group(settings[d.name], d.values) for d in subsets):
            return True
        if method not in self._entangled:
            self._entangled[method] = self._is_entangled(method, settings)
        return self._entangled[method]

    def _is_entangled(self, method: str, settings: Mapping[str, Setting]) -> bool:
        if self.accountant is None:
            return False
        try:
            return self.accountant.is_entangled(method, settings)
        except Exception:  # whatever a method does that has no answer on the meta device
            return False

    def _new_account(self, method: str, settings: Settings, *, is_fixed: bool) -> Account:
        if self.accountant is None:
            return self._approximate(method)
        try:
            account = self.accountant.account(method, dict(settings), is_fixed=is_fixed)
            if self.accountant.can_stand_alone(method):
                return account
            return self._levelled(account, method, dict(settings), is_fixed=is_fixed)
        except Exception:  # whatever a method does that has no answer on the meta device
            return self._approximate(method)

    def _levelled(
        self, account: Account, method: str, settings: Mapping[str, Setting], *, is_fixed: bool
    ) -> Account:
        """Return an account that gives what is saved in full depth, whichever layer saves it.

        Of a method that stands on every layer or on none.
        """
        assert self.accountant is not None
        if len(self._base.stacks) > 1 or self._base.shape.uses_gradient_checkpointing:
            return account
        whole = self.accountant.whole
        corner = self.accountant.everywhere(method, settings, is_fixed=is_fixed)
        module = replace(corner, layers=tuple(range(self._base.shape.num_layers)))
        chosen = Configuration(modules=(module,), learning_rate=1.0)
        layers, outside = whole.split(whole.step.saved_by_label(whole.step.build(chosen)))
        predicted = self._sum_of(module, account)
        kept = sum(sum(sizes.values()) for sizes in layers.values())
        more = kept - sum(predicted.layers)
        elsewhere = sum(outside.values()) - (predicted.held - sum(predicted.layers))
        where = next((place for place in account.shares if not place[1]), None)
        if where is None:
            return replace(account, outside=account.outside + round(more + elsewhere))
        share = account.shares[where]
        extra = {**share.extra, (method, "level"): round(more / self._base.shape.num_layers)}
        return replace(
            account,
            shares={**account.shares, where: replace(share, extra=extra)},
            outside=account.outside + round(elsewhere),
        )

    @cached_property
    def accountant(self) -> Accountant | None:
        """Measures methods; None where the model cannot run on the meta device."""
        if self._base.shallow is None:
            return None
        whole = ShallowModel(self._base.step, is_cut=False)
        return Accountant(self._base.shallow, whole, self._base.optimizer)

    def _variant(self, method: str, given: Mapping[str, Setting], *, is_fixed: bool) -> Variant:
        """Return the settings that decide which storages there are at all; others at defaults."""
        settings = dict(given)
        for dimension in self._dimensions_of(method):
            name = dimension.name
            stacked = tuple(v for v in dimension.values if v in PARAMETER_NAMES)
            if dimension.kind == "subset" and is_fixed:
                continue
            if dimension.kind == "subset" and stacked:
                # Stacked experts share one module, so that they cannot be told apart in it.
                chosen = settings[name]
                assert isinstance(chosen, tuple)
                settings[name] = tuple(each for each in stacked if each in chosen)
            elif name not in settings or dimension.kind == "subset" or is_numeric(dimension):
                settings.pop(name, None)
            elif settings[name] != dimension.default and self._is_flat(method, name, given[name]):
                settings[name] = dimension.default
        return method, tuple(sorted(settings.items()))

    def _is_flat(self, method: str, name: str, value: Setting) -> bool:
        """Tell whether a setting that is no number changes no size, all else at its default."""
        key = (method, name, value)
        if key not in self._flat:
            self._flat[key] = self._sizes_stay(method, name, value)
        return self._flat[key]

    def _sizes_stay(self, method: str, name: str, value: Setting) -> bool:
        if self.accountant is None:
            return True
        defaults = {d.name: d.default for d in self._dimensions_of(method)}
        try:
            usual = self._usual.get(method)
            if usual is None:
                usual = self._sizes(method, defaults)
                self._usual[method] = usual
            other = self._sizes(method, {**defaults, name: value})
        except Exception:
            return False
        if usual[0] != other[0]:
            return False
        assert self._base.shallow is not None
        negligible = NEGLIGIBLE * min(self._base.shallow.flow)
        return all(abs(usual[1][place] - other[1][place]) <= negligible for place in usual[1])

    def _sizes(
        self, method: str, settings: Mapping[str, Setting]
    ) -> tuple[Mapping[Label, int], Mapping[Place, float]]:
        """Return what a method saves on all sites, and what the worst moments add."""
        assert self.accountant is not None
        shallow = self.accountant.shallow
        model = self.accountant.build(self.accountant.everywhere(method, settings))
        return shallow.step.saved_by_label(model), shallow.excess_of(model)

    def _approximate(self, method: str) -> Account:
        """Estimate a method by LoRA's activations: the input of each site, and no more."""
        named = frozenset(
            value
            for dimension in get_method(method).dimensions(self._base.shape)
            if dimension.kind == "subset"
            for value in dimension.values
        )
        shares: dict[Place, LayerShare] = {}
        for place, stack in enumerate(self._base.stacks):
            for site in self._base.shape.all_sites:
                if site.is_in_layers and site.first_layer in stack and site.site in named:
                    shares[place, site.site] = self._input_of(place, site)
            if not named:
                shares[place, ""] = LayerShare(
                    low_bytes=self._base.flow[place],
                    extra={(method, "input"): self._base.bytes_of(self._base.shape.hidden_size)},
                )
        return Account(
            shares=shares,
            outside=0,
            resident={},
            growth=Growth(along={}, pairs={}),
            subset_names=named,
            state_share=2.0,
            is_approximate=True,
        )

    def _input_of(self, place: int, site: SiteShape) -> LayerShare:
        num_bytes = self._base.bytes_of(site.in_features)
        return LayerShare(low_bytes=self._base.flow[place], extra={(place, site.site): num_bytes})


def _is_group(chosen: Setting, values: Sequence[Any]) -> bool:
    """Tell whether chosen sites are all there are, or all of one kind."""
    assert isinstance(chosen, tuple)
    groups = ({v for v in values if v in names} for names in SITE_GROUPS.values())
    return set(chosen) == set(values) or any(set(chosen) == group for group in groups)
