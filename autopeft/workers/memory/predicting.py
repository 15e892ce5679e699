"""Add up what the methods of a configuration save, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from autopeft.records import SiteShape
from autopeft.search_spaces.configuration import Configuration, Module, Setting
from autopeft.search_spaces.method import Dimension, Method, get_method
from autopeft.search_spaces.targets import PARAMETER_NAMES, SITE_GROUPS
from autopeft.workers.memory.accountant import Accountant
from autopeft.workers.memory.accounting import Label
from autopeft.workers.memory.accounts import (
    BACK,
    BACK_LOWEST,
    FORTH,
    FORTH_LOWEST,
    LOWEST,
    OUTSIDE,
    WORST_MOMENTS,
    Account,
    LayerShare,
    Reach,
)
from autopeft.workers.memory.depth import stacks_of
from autopeft.workers.memory.growth import Growth, Place, Source, is_numeric
from autopeft.workers.memory.optimizers import Optimizer, trained_tensors
from autopeft.workers.memory.shallow import ShallowModel, kept_bytes
from autopeft.workers.memory.step import TrainingStep
from autopeft.workers.memory.wiring import Rewired, Wirings, rewired

#: Told of a method before it is accounted for: its number from 1, of how many, its name.
OnMethod = Callable[[int, int, str], None]

_Settings = tuple[tuple[str, Setting], ...]
_Variant = tuple[str, _Settings]


class _Placed:
    """What a module is on a layer, one object for equal settings of one method.

    Args:
        settings: Its settings there.
        account: Of these.
        num_stacks: Stacks of the model.

    Attributes:
        settings: The same.
        account: The same.
        sources: By stack what of the account they switch on.
        stretch: Part of the text's length that it adds to it.
    """

    __slots__ = ("_changes", "_grown", "account", "settings", "sources", "stretch")

    def __init__(self, settings: Mapping[str, Setting], account: Account, num_stacks: int) -> None:
        self.settings = settings
        self.account = account
        self.sources = [account.sources(settings, stack) for stack in range(num_stacks)]
        self.stretch = account.stretch(settings)
        self._grown: dict[Place, tuple[float, float, float]] = {}
        self._changes: dict[Place, float] = {}

    def grown(self, place: Place) -> tuple[float, float, float]:
        """Return what the numeric settings add at a place: see ``growth.Bytes``."""
        found = self._grown.get(place)
        if found is None:
            saved, resident, of_weights = self.account.growth.at(place, self.settings).tolist()
            found = self._grown[place] = (saved, resident, of_weights)
        return found

    def change(self, place: Place, base: float) -> float:
        """Return what the module does to a worst moment.

        Of its sites, of kinds apart, the one that adds most and the one that takes most count.

        Args:
            place: Stack and moment.
            base: What the moment adds where no method does anything to it.
        """
        found = self._changes.get(place)
        if found is None:
            more = self.grown(place)[0] - base
            changes = [
                excess[place] + more
                for excess in self.account.excesses(self.settings)
                if place in excess
            ]
            found = self._changes[place] = (
                max(0.0, *changes) + min(0.0, *changes) if changes else 0.0
            )
        return found


#: Modules whose placement is kept at most; beyond that all are forgotten.
MOST_PLACEMENTS = 50_000
#: Part of what a layer keeps that the worst moments of two variants may differ by and count as one.
NEGLIGIBLE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placement:
    """What a module puts on the layers.

    Attributes:
        first: One of ``by_layer``.
        by_layer: Settings and account for each layer that carries it.
        trained: Bytes that train in each of these layers.
    """

    first: _Placed
    by_layer: Mapping[int, _Placed]
    trained: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """Bytes of a configuration.

    Attributes:
        held: Kept from the forward pass to the backward pass.
        forth: The most that is live at once in the forward pass.
        back: The same in the backward pass.
        gradients: Those there are at the worst moment of the backward pass.
        layers: Saved in each layer, 0 where gradients do not pass.
        resident: Frozen bytes that the methods bring.
        state_share: Bytes of optimiser state for each byte that trains.
        step_bytes: The optimiser's temporaries where it updates one parameter at a time.
        is_approximate: Whether a part was estimated from sizes alone.
    """

    held: float
    forth: float
    back: float
    gradients: float
    layers: tuple[float, ...]
    resident: float = 0.0
    state_share: float = 0.0
    step_bytes: int = 0
    is_approximate: bool = False


class Predictor:
    """Know what a model and methods save, and add it up.

    Args:
        step: For the model in full depth.
        optimizer: Whose state and temporaries come with what trains.
    """

    def __init__(self, step: TrainingStep, optimizer: Optimizer) -> None:
        self._step = step
        self._optimizer = optimizer
        self._shape = step.shape
        self._stacks = stacks_of(step.shape)
        self._accounts: dict[_Variant, Account] = {}
        self._state_shares: dict[Any, float] = {}
        self._met: set[_Variant] = set()
        self._placements: dict[Module, _Placement] = {}
        self._placed: dict[tuple[str, _Settings], _Placed] = {}
        self._dimensions: dict[str, tuple[Dimension, ...]] = {}
        self._stack_by_layer = [
            place for place, stack in enumerate(self._stacks) for _ in range(stack.num_layers)
        ]
        self._entangled: dict[str, bool] = {}
        self._flat: dict[tuple[str, str, Setting], bool] = {}
        self._usual: dict[str, tuple[Mapping[Label, int], Mapping[Place, float]]] = {}
        self._together: dict[tuple[Any, ...], list[Rewired | None]] = {}

    @cached_property
    def _shallow(self) -> ShallowModel | None:
        """The shallow model; None where the model cannot run on the meta device."""
        try:
            shallow = ShallowModel(self._step)
            _ = shallow.head_only, shallow.flow, shallow.tail, shallow.base_storages
        except Exception:  # whatever a model does that has no answer on the meta device
            return None
        return shallow

    @property
    def is_approximate(self) -> bool:
        """Whether the model itself could not be accounted for."""
        return self._shallow is None

    @cached_property
    def frozen_forward(self) -> int:
        """Bytes that are live at most in a forward pass that saves nothing."""
        try:
            assert self._shallow is not None
            return self._shallow.step.frozen_forward_bytes()
        except Exception:  # whatever a model does that has no answer on the meta device
            return self._bytes_of(self._widest)

    @cached_property
    def _excess(self) -> Mapping[Place, float]:
        """What the worst moments add to what is kept, where no method adds to it."""
        try:
            assert self._shallow is not None
            return self._shallow.excess
        except Exception:  # the backward pass may fail where the forward pass did not
            wide = float(self._bytes_of(self._widest))
            places = range(-1, len(self._stacks))
            return {(place, source): wide for place in places for source in WORST_MOMENTS}

    def _worst(
        self,
        layers: Sequence[float],
        by_layer: Mapping[int, list[_Placed]],
        trained: Sequence[float],
        accounts: Sequence[_Placed],
    ) -> tuple[float, float, float, float]:
        """Return what layers keep, the most that is live forth and back, and gradients then.

        Args:
            layers: Saved in each.
            by_layer: What stands on each.
            trained: Bytes in each that train.
            accounts: All modules once.
        """
        checkpointed = self._shape.uses_gradient_checkpointing
        kept = kept_bytes(layers, self.layer_output_bytes if checkpointed else None)
        head = 4.0 * self._shape.num_head_parameters
        above = [head + sum(trained[layer + 1 :]) for layer in range(len(layers))]
        forth = back = gradients = 0.0
        lowest = next((layer for layer, size in enumerate(layers) if size > 0), 0)
        below = 0.0
        if not checkpointed and lowest == self._stacks[self._stack_of(lowest)].start:
            # What enters a stack is live as long as the model runs.
            below -= self._from_below(by_layer.get(lowest, []), self._stack_of(lowest))
        sources = (FORTH_LOWEST, BACK_LOWEST)
        for layer, num_bytes in enumerate(kept):
            below += num_bytes
            if layers[layer] > 0:
                here, stack = by_layer.get(layer, []), self._stack_of(layer)
                forth = max(forth, below + self._excess_with((stack, sources[0]), here))
                most = below + above[layer] + self._excess_with((stack, sources[1]), here)
                if most > back:
                    back, gradients = most, above[layer]
                sources = (FORTH, BACK)
        forth = max(forth, below + self._excess_with((-1, FORTH), accounts))
        most = below + self._excess_with((-1, BACK), accounts)
        return sum(kept), forth, max(back, most), gradients if back >= most else 0.0

    @staticmethod
    def _from_below(placed: Sequence[_Placed], stack: int) -> int:
        """Return the bytes that modules keep of what their layer takes in."""
        return max(
            (
                each.account.shares[stack, source].from_below
                for each in placed
                for source in each.sources[stack]
            ),
            default=0,
        )

    def _excess_with(self, place: Place, placed: Sequence[_Placed]) -> float:
        """Return the excess of a layer that carries modules.

        Several may each save what is there at the worst moment anyway, which lowers the excess:
        the strongest of them counts. Others make more of it: going forth each at a moment of its
        own, so that the strongest counts; going back they add up, as what one has made is still
        there when the next one begins.
        """
        base = self._excess[place]
        strongest = together = least = 0.0
        for each in placed:
            change = each.change(place, base)
            if change > 0:
                together += change
                strongest = max(strongest, change)
            elif change < least:
                least = change
        return base + (strongest if place[1] in (FORTH, FORTH_LOWEST) else together) + least

    @property
    def _widest(self) -> int:
        """Width of what the widest linear layer takes in and gives out."""
        return max((site.in_features + site.out_features for site in self._shape.sites), default=0)

    @cached_property
    def layer_output_bytes(self) -> int:
        """Bytes of what one layer hands to the next."""
        found = 0 if self._shallow is None else self._shallow.step.layer_output_bytes
        return found or self._bytes_of(self._shape.hidden_size)

    def meet(self, modules: Iterable[Module], on_method: OnMethod | None = None) -> None:
        """Account for what these modules are variants of, method by method.

        Args:
            modules: Any; those met before cost next to nothing.
            on_method: Told of each method with a variant not met before.
        """
        by_method: dict[str, list[Module]] = {}
        for module in modules:
            named = tuple(
                pair for pair in module.settings if isinstance(pair[1], str | bool | tuple)
            )
            if (module.method, named) not in self._met:
                self._met.add((module.method, named))
                by_method.setdefault(module.method, []).append(module)
        for number, (method, found) in enumerate(by_method.items(), start=1):
            if on_method is not None:
                on_method(number, len(by_method), method)
            for module in found:
                self._placement(module)

    def add_up(self, modules: tuple[Module, ...]) -> Sum:
        """Return what a configuration saves."""
        placements = [self._placement(module) for module in modules]
        accounts = [placement.first for placement in placements]
        longer = sum(placed.stretch for placed in accounts)
        outside, resident = float(self._head), 0.0
        by_layer: dict[int, list[_Placed]] = {}
        trained = [0.0] * self._shape.num_layers
        lowest: int | None = None
        for placement in placements:
            account = placement.first.account
            grown = placement.first.grown(OUTSIDE)
            outside += account.outside + grown[0]
            resident += account.resident.get(OUTSIDE, 0.0) + grown[1]
            if account.reach is Reach.NOTHING:
                continue
            if account.reach is Reach.EVERYTHING:
                lowest = -1
            for layer, placed in placement.by_layer.items():
                if not placed.sources[self._stack_of(layer)]:
                    continue
                by_layer.setdefault(layer, []).append(placed)
                trained[layer] += placement.trained
                lowest = layer if lowest is None else min(lowest, layer)
        layers = [0.0] * self._shape.num_layers
        if lowest is not None:
            known: dict[tuple[Any, ...], tuple[float, float]] = {}
            bottom = self._stack_of(max(lowest, 0))
            for layer in range(max(lowest, 0), self._shape.num_layers):
                stack = self._stack_of(layer)
                here = by_layer.get(layer, [])
                starts = layer == self._stacks[stack].start and stack != bottom
                key = (stack, starts, layer == lowest, *(id(placed) for placed in here))
                if key not in known:
                    added = self._layer(stack, here, longer, is_lowest=layer == lowest)
                    if stack != bottom:
                        added = self._later(stack, bottom, here, longer, added, starts=starts)
                    known[key] = added
                layers[layer] = known[key][0]
                resident += known[key][1]
            outside += self._tail(bottom)
        kept, forth, back, gradients = self._worst(layers, by_layer, trained, accounts)
        states = [placed.account.state_share for placed in accounts]
        return Sum(
            held=outside + kept,
            forth=forth,
            back=back,
            gradients=gradients,
            layers=tuple(layers),
            resident=resident,
            state_share=max(states, default=self._head_state_share),
            step_bytes=max((placed.account.step_bytes for placed in accounts), default=0),
            is_approximate=any(placed.account.is_approximate for placed in accounts),
        )

    def state_share(self, module: Module) -> float:
        """Return the optimiser's state for each byte of a module that trains.

        Where this is not the same for tensors of all sizes, the module is built with its own
        numbers, once for each set of them, on every layer.
        """
        placed = self._placement(module).first
        settings, account = placed.settings, placed.account
        if self._optimizer.is_even or self._accountant is None:
            return account.state_share
        is_fixed = self._is_fixed(module.method, settings)
        method, named = self._variant(module.method, settings, is_fixed=is_fixed)
        numbers = {
            dimension.name: settings[dimension.name]
            for dimension in self._dimensions_of(method)
            if is_numeric(dimension) and dimension.name in settings
        }
        key = (method, named, tuple(sorted(numbers.items())))
        if key not in self._state_shares:
            chosen = {**dict(named), **numbers}
            try:
                share = self._accountant.state_share(method, chosen, is_fixed=is_fixed)
            except Exception:  # whatever a method does that has no answer on the meta device
                share = account.state_share
            self._state_shares[key] = share
        return self._state_shares[key]

    @cached_property
    def head_state_bytes(self) -> float:
        """Bytes of the optimiser's state for the head."""
        return self._head_state_share * 4 * self._shape.num_head_parameters

    def _placement(self, module: Module) -> _Placement:
        """Return what a module puts on each layer."""
        if module not in self._placements:
            if len(self._placements) >= MOST_PLACEMENTS:
                self._placements.clear()
                self._placed.clear()
            self._placements[module] = self._new_placement(module)
        return self._placements[module]

    def _new_placement(self, module: Module) -> _Placement:
        method = get_method(module.method)
        layers = module.layers
        if method.counted_by is not None:
            count = module[method.counted_by]
            assert isinstance(count, int)
            layers = tuple(range(self._shape.num_layers))[-count:]
        if type(method).layer_settings is Method.layer_settings:
            by_layer = dict.fromkeys(layers, self._placed_as(module.method, module.as_dict()))
        else:
            by_layer = {
                layer: self._placed_as(
                    module.method, method.layer_settings(self._shape, module, layer)
                )
                for layer in layers
            }
        num_bytes = 4.0 * method.num_parameters(self._shape, module)
        return _Placement(
            first=next(iter(by_layer.values())),
            by_layer=by_layer,
            trained=num_bytes / max(1, len(layers)),
        )

    def _placed_as(self, method: str, settings: Mapping[str, Setting]) -> _Placed:
        """Return what a method with these settings is on a layer."""
        key = (method, tuple(sorted(settings.items())))
        if key not in self._placed:
            account = self._account(method, settings)
            self._placed[key] = _Placed(dict(settings), account, len(self._stacks))
        return self._placed[key]

    def _dimensions_of(self, method: str) -> tuple[Dimension, ...]:
        if method not in self._dimensions:
            self._dimensions[method] = tuple(get_method(method).dimensions(self._shape))
        return self._dimensions[method]

    def _later(
        self,
        stack: int,
        bottom: int,
        here: list[_Placed],
        longer: float,
        added: tuple[float, float],
        *,
        starts: bool,
    ) -> tuple[float, float]:
        """Return the same for a layer of a stack after the one that gradients end in."""
        if self._shallow is None:
            return added
        later = self._shallow.beyond[bottom][stack - bottom - 1]
        if not starts:
            return added[0] + later.more, added[1]
        entered = added[0] - self._flow[stack] + later.first
        from_here = (
            self._layer(stack, here, longer, is_lowest=True)[0] + later.more if here else 0.0
        )
        return max(entered, from_here), added[1]

    def _layer(
        self, stack: int, here: list[_Placed], longer: float, *, is_lowest: bool
    ) -> tuple[float, float]:
        """Return saved and resident bytes of a layer that carries these modules.

        Args:
            stack: Its stack.
            here: They.
            longer: Part of the text's length that virtual tokens add to it.
            is_lowest: Whether gradients end in it.
        """
        extra: dict[Any, float] = {}
        low: dict[Any, int] = {}
        low_bytes = grown = resident = 0.0
        changes = self._rewired(stack, here)
        for placed, change in zip(here, changes, strict=True):
            account = placed.account
            sources: Collection[Source] = placed.sources[stack]
            # What a method adds to the text is in its own account, but in no other's.
            others = longer - placed.stretch
            for source in sources:
                share = account.shares[stack, source]
                low.update(share.low)
                low_bytes = max(low_bytes, share.low_bytes)
                fixed = account.of_weights
                mine: Mapping[Any, float]
                mine = share.extra if change is None else change.applied(share.extra, fixed)
                if others > 0:
                    mine = {k: v if k in fixed else v * (1 + others) for k, v in mine.items()}
                    mine = {k: max(v, extra.get(k, 0.0)) for k, v in mine.items()}
                extra.update(mine)
            if is_lowest and account.has_lowest:
                sources = (LOWEST,)
            for source in {*sources, ""} if LOWEST not in sources else {LOWEST}:
                more = placed.grown((stack, source))
                grown += more[0] + (more[0] - more[2]) * others
                resident += account.resident.get((stack, source), 0.0) + more[1]
        flow: float = self._flow[stack]
        if is_lowest:
            flow = max(low_bytes, self._low(stack, here) if len(here) > 1 else sum(low.values()))
        return flow + sum(extra.values()) + grown, resident

    def _low(self, stack: int, here: list[_Placed]) -> float:
        """Return what several modules keep together of the flow of the layer gradients end in.

        It is no more than the whole flow, unless one alone keeps more. Where one keeps less than
        the storages that were told apart in it, another may keep these.
        """
        together: dict[Any, int] = {}
        less: list[int] = []
        most = self._flow[stack]
        for placed in here:
            mine: dict[Any, int] = {}
            for source in placed.sources[stack]:
                mine.update(placed.account.shares[stack, source].low)
            together.update({key: size for key, size in mine.items() if size > 0})
            less.append(sum(size for size in mine.values() if size < 0))
            most = max(most, sum(mine.values()))
        return min(most, sum(together.values()) + max(less))

    def _rewired(self, stack: int, here: list[_Placed]) -> Sequence[Rewired | None]:
        """Return what becomes of what the modules of a layer read, None where nothing does."""
        if len(here) < 2 or self._wirings is None:
            return [None] * len(here)
        placed = [
            (
                self._wirings.of(each.account.method, each.settings),
                self._wirings.paths(each.settings, stack),
            )
            for each in here
        ]
        key = (stack, *((id(wirings), paths) for wirings, paths in placed))
        if key not in self._together:
            self._together[key] = rewired(
                [(wirings[stack], paths) for wirings, paths in placed],
                self._wirings.base.inputs,
                self._wirings.made_by,
            )
        return self._together[key]

    @cached_property
    def _wirings(self) -> Wirings | None:
        return None if self._accountant is None else Wirings(self._accountant)

    def _account(self, method: str, settings: Mapping[str, Setting]) -> Account:
        is_fixed = self._is_fixed(method, settings)
        variant = self._variant(method, settings, is_fixed=is_fixed)
        if variant not in self._accounts:
            account = self._new_account(*variant, is_fixed=is_fixed)
            self._accounts[variant] = replace(account, method=method)
        return self._accounts[variant]

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
        if self._accountant is None:
            return False
        try:
            return self._accountant.is_entangled(method, settings)
        except Exception:  # whatever a method does that has no answer on the meta device
            return False

    def _new_account(self, method: str, settings: _Settings, *, is_fixed: bool) -> Account:
        if self._accountant is None:
            return self._approximate(method)
        try:
            account = self._accountant.account(method, dict(settings), is_fixed=is_fixed)
            if self._accountant.can_stand_alone(method):
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
        assert self._accountant is not None
        if len(self._stacks) > 1 or self._shape.uses_gradient_checkpointing:
            return account
        whole = self._accountant.whole
        corner = self._accountant.everywhere(method, settings, is_fixed=is_fixed)
        module = replace(corner, layers=tuple(range(self._shape.num_layers)))
        chosen = Configuration(modules=(module,), learning_rate=1.0)
        layers, outside = whole.split(whole.step.saved_by_label(whole.step.build(chosen)))
        placed = _Placed(module.as_dict(), account, len(self._stacks))
        self._placements[module] = _Placement(
            first=placed, by_layer=dict.fromkeys(module.layers, placed), trained=0.0
        )
        predicted = self.add_up((module,))
        del self._placements[module]
        kept = sum(sum(sizes.values()) for sizes in layers.values())
        more = kept - sum(predicted.layers)
        elsewhere = sum(outside.values()) - (predicted.held - sum(predicted.layers))
        where = next((place for place in account.shares if not place[1]), None)
        if where is None:
            return replace(account, outside=account.outside + round(more + elsewhere))
        share = account.shares[where]
        extra = {**share.extra, (method, "level"): round(more / self._shape.num_layers)}
        return replace(
            account,
            shares={**account.shares, where: replace(share, extra=extra)},
            outside=account.outside + round(elsewhere),
        )

    @cached_property
    def _accountant(self) -> Accountant | None:
        if self._shallow is None:
            return None
        whole = ShallowModel(self._step, is_cut=False)
        return Accountant(self._shallow, whole, self._optimizer)

    def _variant(self, method: str, given: Mapping[str, Setting], *, is_fixed: bool) -> _Variant:
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
        if self._accountant is None:
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
        assert self._shallow is not None
        negligible = NEGLIGIBLE * min(self._shallow.flow)
        return all(abs(usual[1][place] - other[1][place]) <= negligible for place in usual[1])

    def _sizes(
        self, method: str, settings: Mapping[str, Setting]
    ) -> tuple[Mapping[Label, int], Mapping[Place, float]]:
        """Return what a method saves on all sites, and what the worst moments add."""
        assert self._accountant is not None
        shallow = self._accountant.shallow
        model = self._accountant.build(self._accountant.everywhere(method, settings))
        return shallow.step.saved_by_label(model), shallow.excess_of(model)

    def _approximate(self, method: str) -> Account:
        """Estimate a method by LoRA's activations: the input of each site, and no more."""
        named = frozenset(
            value
            for dimension in get_method(method).dimensions(self._shape)
            if dimension.kind == "subset"
            for value in dimension.values
        )
        shares: dict[Place, LayerShare] = {}
        for place, stack in enumerate(self._stacks):
            for site in self._shape.all_sites:
                if site.is_in_layers and site.first_layer in stack and site.site in named:
                    shares[place, site.site] = self._input_of(place, site)
            if not named:
                shares[place, ""] = LayerShare(
                    low_bytes=self._flow[place],
                    extra={(method, "input"): self._bytes_of(self._shape.hidden_size)},
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
        num_bytes = self._bytes_of(site.in_features)
        return LayerShare(low_bytes=self._flow[place], extra={(place, site.site): num_bytes})

    @cached_property
    def _head_state_share(self) -> float:
        """Bytes of optimiser state for each byte of the head."""
        if self._shallow is None:
            return 2.0
        trained = trained_tensors(self._shallow.bare)
        num_bytes = sum(tensor.nbytes for tensor in trained)
        return self._optimizer.state_bytes(trained) / num_bytes if num_bytes else 0.0

    @property
    def _head(self) -> int:
        if self._shallow is None:
            return self._bytes_of(max(self._shape.hidden_size, self._logits))
        return sum(self._shallow.head_only.values())

    @property
    def _logits(self) -> int:
        """Numbers a token in the output, float32 copy of the loss included."""
        return 0 if self._shape.num_head_parameters else 2 * self._shape.vocab_size

    @cached_property
    def _flow(self) -> tuple[int, ...]:
        if self._shallow is not None:
            return self._shallow.flow
        # Queries, keys, values, activations and their non-linear images, and four times the
        # residual stream: two normalisations keep an input and an output.
        widths = [
            4 * self._shape.hidden_size
            + sum(site.out_features for site in self._shape.sites if site.first_layer in stack)
            for stack in self._stacks
        ]
        return tuple(self._bytes_of(width) for width in widths)

    def _tail(self, stack: int) -> int:
        return 0 if self._shallow is None else self._shallow.tail[stack]

    def _stack_of(self, layer: int) -> int:
        return self._stack_by_layer[layer]

    def _bytes_of(self, width: int) -> int:
        """Return the bytes of one number a token and unit of width."""
        return self._step.batch_size * self._step.tokens * width * self._step.dtype.itemsize


def _is_group(chosen: Setting, values: Sequence[Any]) -> bool:
    """Tell whether chosen sites are all there are, or all of one kind."""
    assert isinstance(chosen, tuple)
    groups = ({v for v in values if v in names} for names in SITE_GROUPS.values())
    return set(chosen) == set(values) or any(set(chosen) == group for group in groups)
