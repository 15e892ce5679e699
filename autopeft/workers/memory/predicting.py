"""Add up what the methods of a configuration save, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from autopeft.search_spaces.configuration import Module, Setting
from autopeft.search_spaces.method import Method, get_method
from autopeft.workers.memory.accounts import (
    BACK,
    BACK_LOWEST,
    FORTH,
    FORTH_LOWEST,
    LOWEST,
    OUTSIDE,
    Account,
    Reach,
)
from autopeft.workers.memory.base_model import BaseModel
from autopeft.workers.memory.growth import Place, Source
from autopeft.workers.memory.optimizers import Optimizer
from autopeft.workers.memory.placed import Placed, Placement
from autopeft.workers.memory.shallow import kept_bytes
from autopeft.workers.memory.step import TrainingStep
from autopeft.workers.memory.variants import Settings, Variant, Variants
from autopeft.workers.memory.wiring import Rewired, Wirings, rewired

#: Told of a method before it is accounted for: its number from 1, of how many, its name.
OnMethod = Callable[[int, int, str], None]

#: Modules whose placement is kept at most; beyond that all are forgotten.
MOST_PLACEMENTS = 50_000


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

    Attributes:
        variants: What each variant of a method saves.
    """

    def __init__(self, step: TrainingStep, optimizer: Optimizer) -> None:
        self._base = BaseModel(step, optimizer)
        self.variants = Variants(self._base, self._sum_of)
        self._shape = step.shape
        self._met: set[Variant] = set()
        self._placements: dict[Module, Placement] = {}
        self._placed: dict[tuple[str, Settings], Placed] = {}
        self._stack_by_layer = [
            place for place, stack in enumerate(self._base.stacks) for _ in range(stack.num_layers)
        ]
        self._together: dict[tuple[Any, ...], list[Rewired | None]] = {}

    @property
    def is_approximate(self) -> bool:
        """Whether the model itself could not be accounted for."""
        return self._base.is_approximate

    @property
    def frozen_forward(self) -> int:
        """Bytes that are live at most in a forward pass that saves nothing."""
        return self._base.frozen_forward

    @property
    def layer_output_bytes(self) -> int:
        """Bytes of what one layer hands to the next."""
        return self._base.layer_output_bytes

    @property
    def head_state_bytes(self) -> float:
        """Bytes of the optimiser's state for the head."""
        return self._base.head_state_share * 4 * self._shape.num_head_parameters

    def state_share(self, module: Module) -> float:
        """Return the optimiser's state for each byte of a module that trains."""
        return self.variants.state_share(self._placement(module).first)

    def _worst(
        self,
        layers: Sequence[float],
        by_layer: Mapping[int, list[Placed]],
        trained: Sequence[float],
        accounts: Sequence[Placed],
    ) -> tuple[float, float, float, float]:
        """Return what layers keep, the most that is live forth and back, and gradients then.

        Args:
            layers: Saved in each.
            by_layer: What stands on each.
            trained: Bytes in each that train.
            accounts: All modules once.
        """
        checkpointed = self._shape.uses_gradient_checkpointing
        kept = kept_bytes(layers, self._base.layer_output_bytes if checkpointed else None)
        head = 4.0 * self._shape.num_head_parameters
        above = [head + sum(trained[layer + 1 :]) for layer in range(len(layers))]
        forth = back = gradients = 0.0
        lowest = next((layer for layer, size in enumerate(layers) if size > 0), 0)
        below = 0.0
        if not checkpointed and lowest == self._base.stacks[self._stack_of(lowest)].start:
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
    def _from_below(placed: Sequence[Placed], stack: int) -> int:
        """Return the bytes that modules keep of what their layer takes in."""
        return max(
            (
                each.account.shares[stack, source].from_below
                for each in placed
                for source in each.sources[stack]
            ),
            default=0,
        )

    def _excess_with(self, place: Place, placed: Sequence[Placed]) -> float:
        """Return the excess of a layer that carries modules.

        Several may each save what is there at the worst moment anyway, which lowers the excess:
        the strongest of them counts. Others make more of it: going forth each at a moment of its
        own, so that the strongest counts; going back they add up, as what one has made is still
        there when the next one begins.
        """
        base = self._base.excess[place]
        strongest = together = least = 0.0
        for each in placed:
            change = each.change(place, base)
            if change > 0:
                together += change
                strongest = max(strongest, change)
            elif change < least:
                least = change
        return base + (strongest if place[1] in (FORTH, FORTH_LOWEST) else together) + least

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
        outside, resident = float(self._base.head), 0.0
        by_layer: dict[int, list[Placed]] = {}
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
                starts = layer == self._base.stacks[stack].start and stack != bottom
                key = (stack, starts, layer == lowest, *(id(placed) for placed in here))
                if key not in known:
                    added = self._layer(stack, here, longer, is_lowest=layer == lowest)
                    if stack != bottom:
                        added = self._later(stack, bottom, here, longer, added, starts=starts)
                    known[key] = added
                layers[layer] = known[key][0]
                resident += known[key][1]
            outside += self._base.tail(bottom)
        kept, forth, back, gradients = self._worst(layers, by_layer, trained, accounts)
        states = [placed.account.state_share for placed in accounts]
        return Sum(
            held=outside + kept,
            forth=forth,
            back=back,
            gradients=gradients,
            layers=tuple(layers),
            resident=resident,
            state_share=max(states, default=self._base.head_state_share),
            step_bytes=max((placed.account.step_bytes for placed in accounts), default=0),
            is_approximate=any(placed.account.is_approximate for placed in accounts),
        )

    def _placement(self, module: Module) -> Placement:
        """Return what a module puts on each layer."""
        if module not in self._placements:
            if len(self._placements) >= MOST_PLACEMENTS:
                self._placements.clear()
                self._placed.clear()
            self._placements[module] = self._new_placement(module)
        return self._placements[module]

    def _new_placement(self, module: Module) -> Placement:
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
        return Placement(
            first=next(iter(by_layer.values())),
            by_layer=by_layer,
            trained=num_bytes / max(1, len(layers)),
        )

    def _placed_as(self, method: str, settings: Mapping[str, Setting]) -> Placed:
        """Return what a method with these settings is on a layer."""
        key = (method, tuple(sorted(settings.items())))
        if key not in self._placed:
            account = self.variants.account(method, settings)
            self._placed[key] = Placed(dict(settings), account, len(self._base.stacks))
        return self._placed[key]

    def _later(
        self,
        stack: int,
        bottom: int,
        here: list[Placed],
        longer: float,
        added: tuple[float, float],
        *,
        starts: bool,
    ) -> tuple[float, float]:
        """Return the same for a layer of a stack after the one that gradients end in."""
        if self._base.shallow is None:
            return added
        later = self._base.shallow.beyond[bottom][stack - bottom - 1]
        if not starts:
            return added[0] + later.more, added[1]
        entered = added[0] - self._base.flow[stack] + later.first
        from_here = (
            self._layer(stack, here, longer, is_lowest=True)[0] + later.more if here else 0.0
        )
        return max(entered, from_here), added[1]

    def _layer(
        self, stack: int, here: list[Placed], longer: float, *, is_lowest: bool
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
        flow: float = self._base.flow[stack]
        if is_lowest:
            flow = max(low_bytes, self._low(stack, here) if len(here) > 1 else sum(low.values()))
        return flow + sum(extra.values()) + grown, resident

    def _low(self, stack: int, here: list[Placed]) -> float:
        """Return what several modules keep together of the flow of the layer gradients end in.

        It is no more than the whole flow, unless one alone keeps more. Where one keeps less than
        the storages that were told apart in it, another may keep these.
        """
        together: dict[Any, int] = {}
        less: list[int] = []
        most = self._base.flow[stack]
        for placed in here:
            mine: dict[Any, int] = {}
            for source in placed.sources[stack]:
                mine.update(placed.account.shares[stack, source].low)
            together.update({key: size for key, size in mine.items() if size > 0})
            less.append(sum(size for size in mine.values() if size < 0))
            most = max(most, sum(mine.values()))
        return min(most, sum(together.values()) + max(less))

    def _rewired(self, stack: int, here: list[Placed]) -> Sequence[Rewired | None]:
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
        accountant = self.variants.accountant
        return None if accountant is None else Wirings(accountant)

    def _sum_of(self, module: Module, account: Account) -> Sum:
        """Return what one module saves that has this account on all of its layers."""
        placed = Placed(module.as_dict(), account, len(self._base.stacks))
        self._placements[module] = Placement(
            first=placed, by_layer=dict.fromkeys(module.layers, placed), trained=0.0
        )
        found = self.add_up((module,))
        del self._placements[module]
        return found

    def _stack_of(self, layer: int) -> int:
        return self._stack_by_layer[layer]
