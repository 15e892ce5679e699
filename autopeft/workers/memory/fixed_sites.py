"""What a method adds where it stands on certain sites: measured on these very sites.

Apart, the sites of a method may not add up to what they save together: they share parameters or
frozen projections, or one of them stands in the way of another. A space as a rule knows a few
groups of sites (attention, feed-forward, all), and each is measured as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from autopeft.search_spaces.configuration import Module, Setting
from autopeft.search_spaces.method import get_method
from autopeft.workers.memory.accounting import Label
from autopeft.workers.memory.accounts import (
    BACK,
    BACK_LOWEST,
    FORTH,
    FORTH_LOWEST,
    LOWEST,
    OUTSIDE,
    Account,
    LayerShare,
    Reach,
)
from autopeft.workers.memory.growth import Bytes, Place, is_numeric, measured_growth
from autopeft.workers.memory.optimizers import trained_tensors

if TYPE_CHECKING:
    from autopeft.workers.memory.accountant import Accountant


class FixedSites:
    """Measure modules whose sites are given.

    Args:
        accountant: Whose shallow model they are put on.
    """

    def __init__(self, accountant: Accountant) -> None:
        self._accountant = accountant
        self._shallow = accountant.shallow
        self._flat: set[tuple[Any, ...]] = set()

    def account(self, module: Module, variant: tuple[Any, ...]) -> Account | None:
        """Measure a module that stands on all layers, its numeric settings at their smallest.

        None where gradients go through layers below those that carry it.

        Args:
            module: It.
            variant: What it is a variant of, whatever its sites: settings that change no size
                on some change none on others.

        Raises:
            Exception: whatever building or running it on the meta device raises.
        """
        shallow, accountant = self._shallow, self._accountant
        shallow.step.weight_labels.clear()
        model = accountant.build(module)
        trained = trained_tensors(model)
        through = {place: self._through(model, place) for place, _ in enumerate(shallow.stacks)}
        shares: dict[Place, LayerShare] = {}
        excess: dict[Place, float] = {}
        outside = 0
        for place, stack in enumerate(shallow.stacks):
            alone = self._alone(module, place)
            saved = shallow.step.saved_by_label(alone)
            layers, elsewhere = shallow.split(saved)
            if not any(layers.values()):
                continue
            own = accountant.own(through[place], place, accountant.site_names)
            share = accountant.share(alone, module.method, saved, through[place], own, place)
            head = sum(shallow.head_only.values())
            outside = max(outside, sum(elsewhere.values()) - head - shallow.tail[place])
            if place == 0 and self._enters_below(layers):
                return None
            above = shallow.gradients_above(alone)
            run = shallow.step.run(alone)
            kept = sum(run.kept.get(layer, 0) for layer in range(stack.start, stack.top + 1))
            shares[place, ""] = self._corrected(module, share, place, kept)
            found = shallow.excess_in(run, above)
            excess[place, FORTH_LOWEST] = found[place, FORTH]
            excess[place, BACK_LOWEST] = found[place, BACK]
        corner = self._measured(module, model)
        for where in corner:
            if where[1] in (FORTH, BACK):
                excess[where] = float(corner[where][0])
        dimensions = get_method(module.method).dimensions(accountant.full_shape)
        counted = get_method(module.method).counted_by
        numeric = [
            d
            for d in dimensions
            if is_numeric(d) and d.name != counted and (*variant, d.name) not in self._flat
        ]
        growth = measured_growth(
            module, numeric, lambda settings: self._beyond(module, corner, settings)
        )
        self._flat.update(
            (*variant, d.name)
            for d in numeric
            if d.name not in growth.along and all(isinstance(v, float) for v in d.values)
        )
        return Account(
            shares=shares,
            outside=max(0, outside),
            resident={place: float(amount[1]) for place, amount in corner.items() if amount[1]},
            growth=growth,
            subset_names=frozenset(),
            reach=Reach.CARRYING if shares else Reach.NOTHING,
            excess=excess,
            has_lowest=True,
            of_weights=accountant.of_weights(shares, module.method),
            longer=accountant.longer(module, model),
            state_share=accountant.optimizer.state_bytes(trained)
            / max(1, sum(tensor.nbytes for tensor in trained)),
            step_bytes=accountant.optimizer.step_bytes(trained, "cpu"),
        )

    def _enters_below(self, layers: Mapping[int, Mapping[Label, int]]) -> bool:
        """Tell whether gradients go through the first layer where the top one alone trains."""
        stack = self._shallow.stacks[0]
        start = sum(layers.get(stack.start, {}).values())
        return stack.num_layers > 1 and start > self._shallow.flow[0] / 2

    def _corrected(
        self, module: Module, share: LayerShare, place: int, lowest: float
    ) -> LayerShare:
        """Return a share that gives what a layer keeps, in the middle and as the lowest.

        Modules that layers share make storages outside of the layer that runs them, and a
        method may stand in the way of what its layer saves without it.

        Args:
            module: On all layers.
            share: What was told apart.
            place: Its stack.
            lowest: Bytes that are kept where the top layer alone trains.
        """
        stack = self._shallow.stacks[place]
        if self._shallow.shape.uses_gradient_checkpointing:
            return share  # which of a layer's storages there are is of no matter
        extra = sum(share.extra.values())
        if stack.num_layers == 1:
            more = 0
        else:
            layers = tuple(range(stack.start, stack.top + 1))
            model = self._accountant.build(replace(module, layers=layers) if place else module)
            run = self._shallow.step.run(model)
            above = float(run.kept.get(stack.top, 0))
            if place == 0:
                # What a layer takes in counts as its own, though the layer below makes it.
                kept = sum(run.kept.get(layer, 0) for layer in layers)
                above = (kept + self._shallow.entry(run) - lowest) / (stack.num_layers - 1)
            more = round(above) - self._shallow.flow[place] - extra
        below = round(lowest) - sum(share.low.values()) - extra - more
        rest = (repr(module), "whole")
        return LayerShare(
            low={**share.low, rest: below} if below else share.low,
            extra={**share.extra, rest: more} if more else share.extra,
            from_below=share.from_below,
        )

    def _alone(self, module: Module, place: int) -> Any:
        """Return a model with the module on the top layer of a stack alone."""
        shallow = self._shallow
        top = shallow.stacks[place].top
        counted = get_method(module.method).counted_by
        if counted is None:
            return self._accountant.build(replace(module, layers=(top,)))
        model = self._accountant.build(module)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and shallow.layer_of(name) not in (None, top):
                parameter.requires_grad_(False)
        return model

    def _through(self, model: Any, place: int) -> dict[Label, int]:
        """Return what a frozen method and its stack save where gradients come from below it."""
        shallow = self._shallow
        stack = shallow.stacks[place]
        if stack.num_layers == 1:
            return {}
        trained = [p for p in model.parameters() if p.requires_grad]
        for parameter in trained:
            parameter.requires_grad_(False)
        saved: dict[Label, int] = {}
        for weight in shallow.step.frozen_in(model, stack.start):
            weight.requires_grad_(True)
            saved = shallow.step.saved_by_label(model)
            weight.requires_grad_(False)
            # A method may read a weight in a way that takes no gradient.
            if any(shallow.layer_of(scope) == stack.top for scope, _ in saved):
                break
        for parameter in trained:
            parameter.requires_grad_(True)
        return {
            label: size
            for label, size in saved.items()
            if (layer := shallow.layer_of(label[0])) is None or layer in stack
        }

    def _measured(self, module: Module, model: Any = None) -> dict[Place, Bytes]:
        """Return saved and frozen bytes of a module by place, and what worst moments add."""
        shallow, accountant = self._shallow, self._accountant
        model = accountant.build(module) if model is None else model
        everywhere = self._frozen_beyond_base(model)
        above = shallow.gradients_above(model)
        run = shallow.step.run(model)
        kept, of_weights = run.kept, run.kept_of_weights
        found: dict[Place, Bytes] = {OUTSIDE: _saved(kept.get(None, 0), of_weights.get(None, 0))}
        for place, stack in enumerate(shallow.stacks):
            start = kept.get(stack.start, 0) + (0.0 if place else shallow.entry(run))
            found[place, ""] = _saved(kept.get(stack.top, 0), of_weights.get(stack.top, 0))
            found[place, LOWEST] = _saved(start, of_weights.get(stack.start, 0))
        for where, amount in shallow.excess_in(run, above).items():
            found[where] = _saved(amount)
        if everywhere:
            self._split_frozen(module, everywhere, found)
        return found

    def _split_frozen(self, module: Module, everywhere: float, found: dict[Place, Bytes]) -> None:
        """Tell frozen bytes that every layer brings from those that all layers share."""
        stacks = self._shallow.stacks
        num_layers = sum(stack.num_layers for stack in stacks)
        if get_method(module.method).counted_by is not None:
            for place in range(len(stacks)):
                found[place, ""][1] += everywhere / num_layers
                found[place, LOWEST][1] += everywhere / num_layers
            return
        alone = [
            self._frozen_beyond_base(self._alone(module, place)) for place in range(len(stacks))
        ]
        weighted = sum(size * stack.num_layers for size, stack in zip(alone, stacks, strict=True))
        once = (weighted - everywhere) / (num_layers - 1) if num_layers > 1 else 0.0
        found[OUTSIDE][1] += once
        for place, size in enumerate(alone):
            found[place, ""][1] += size - once
            found[place, LOWEST][1] += size - once

    def _frozen_beyond_base(self, model: Any) -> float:
        shallow = self._shallow
        return float(shallow.step.weight_bytes(model) - shallow.step.weight_bytes(shallow.bare))

    def _beyond(
        self, module: Module, corner: Mapping[Place, Bytes], settings: Mapping[str, Setting]
    ) -> dict[Place, Bytes]:
        """Return bytes by place beyond those of the corner; places without any are left out."""
        changed = Module.of(module.method, module.layers, **{**module.as_dict(), **settings})
        found = self._measured(changed)
        more = {place: amount - corner[place] for place, amount in found.items()}
        return {place: amount for place, amount in more.items() if amount.any()}


def _saved(saved: float, of_weights: float = 0.0) -> Bytes:
    """Return bytes that autograd saves, some of which may not grow with the text."""
    return np.array([float(saved), 0.0, float(of_weights)])
