"""The base model cut to a few layers: what they save when gradients pass through them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from autopeft.search_spaces.configuration import Configuration
from autopeft.workers.memory.accounting import Label
from autopeft.workers.memory.accounts import BACK, BACK_LOWEST, FORTH, FORTH_LOWEST
from autopeft.workers.memory.depth import layer_of, layer_prefixes, stacks_of
from autopeft.workers.memory.growth import Place
from autopeft.workers.memory.step import BEFORE, StepBytes, TrainingStep

Sizes = Mapping[Label, int]


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

    def __init__(self, step: TrainingStep, *, is_cut: bool = True) -> None:
        self.step = step.shallow() if is_cut else step
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
            for layer in {stack.start, max(stack.start, stack.top - 1), stack.top}:
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
            lower = sum(self._trained_weight[max(stack.start, stack.top - 1)].values())
            flows.append(lower - sum(self._trained_weight[stack.top].values()))
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
            frozenset(map(plain_label, self._trained_weight[stack.start])) for stack in self.stacks
        )

    @cached_property
    def beyond(self) -> tuple[tuple[LaterStack, ...], ...]:
        """What gradients that end in a stack save in the stacks after it, by both."""
        found = []
        for place, stack in enumerate(self.stacks):
            layers, _ = self.split(self._trained_weight[stack.top])
            later = []
            for other, flow in zip(self.stacks[place + 1 :], self.flow[place + 1 :], strict=True):
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

    @cached_property
    def excess(self) -> dict[Place, float]:
        """What the worst moments add where one weight trains and nothing else in the layers."""
        found = self.excess_in(*self._runs[0])
        for place, stack in enumerate(self.stacks):
            alone = self.excess_in(*self._runs[stack.top])
            found[place, FORTH_LOWEST] = alone[place, FORTH]
            found[place, BACK_LOWEST] = alone[place, BACK]
        return found

    @cached_property
    def _runs(self) -> dict[int, tuple[StepBytes, list[float]]]:
        """Steps where one weight of a layer trains, and gradients above, by layer."""
        found = {}
        for layer in {0, *(stack.top for stack in self.stacks)}:
            model = self.step.build(Configuration(modules=(), learning_rate=1.0))
            self.step.first_weight(model, layer).requires_grad_(True)
            above = self.gradients_above(model)
            found[layer] = self.step.run(model), above
        return found

    def excess_of(self, model: Any) -> dict[Place, float]:
        """Return what the worst moments add to what is kept, as in ``Account.excess``.

        That is, while a layer computes, forth or back, beyond what it and the layers below it
        keep and beyond the gradients of what is above it; and outside of the layers, beyond what
        all of them keep. Of each stack it is the top layer that counts, and its first layer for
        the moments in the lowest that gradients reach.

        Args:
            model: On this step's shallow model; it is of no use afterwards.
        """
        above = self.gradients_above(model)
        return self.excess_in(self.step.run(model), above)

    def excess_in(self, run: StepBytes, above: Sequence[float]) -> dict[Place, float]:
        """Return the same for a step that ran.

        Args:
            run: It.
            above: What :meth:`gradients_above` returned before.
        """
        kept = [float(run.kept.get(n, 0)) for n in range(self.shape.num_layers)]
        if self.shape.uses_gradient_checkpointing:
            passed = [float((n, False) in run.sections) for n in range(self.shape.num_layers)]
            kept = kept_bytes(passed, self.step.layer_output_bytes)
        all_kept = sum(kept)
        outside = [run.sections.get((layer, True), 0) for layer in (None, BEFORE)]
        excess: dict[Place, float] = {
            (-1, FORTH): max(outside) - all_kept,
            (-1, BACK): run.sections.get((None, False), 0) - all_kept,
        }
        for place, stack in enumerate(self.stacks):
            for forth, back, layer in (
                (FORTH_LOWEST, BACK_LOWEST, stack.start),
                (FORTH, BACK, stack.top),
            ):
                below = sum(kept[: layer + 1])
                excess[place, forth] = run.sections.get((layer, True), 0) - below
                backward = run.sections.get((layer, False))
                if backward is None:  # gradients do not come here
                    excess[place, back] = excess[place, forth]
                else:
                    excess[place, back] = backward - below - above[layer]
        return excess

    def entry(self, run: StepBytes) -> float:
        """Return the bytes kept of what the first layer takes in, which no layer makes."""
        if self.shape.uses_gradient_checkpointing:
            return 0.0
        anyway = self._runs[self.stacks[0].top][0].kept.get(BEFORE, 0)
        return float(run.kept.get(BEFORE, 0) - anyway)

    def gradients_above(self, model: Any) -> list[float]:
        """Return the bytes of gradients that are there when the backward pass enters each layer.

        Those of the head and of the layers above it, and where a batch is computed in parts all.
        """
        layers: dict[int, list[int]] = {}
        sizes: dict[int, int] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if parameter.requires_grad:
                layer = self.layer_of(name)
                is_head = any(f".{path}." in f".{name}" for path in self.shape.head_paths)
                place = (self.shape.num_layers if is_head else -1) if layer is None else layer
                layers.setdefault(id(parameter), []).append(place)
                sizes[id(parameter)] = parameter.nbytes
        if self.step.accumulation > 1:
            return [float(sum(sizes.values()))] * self.shape.num_layers
        return [
            float(sum(sizes[key] for key, places in layers.items() if max(places) > layer))
            for layer in range(self.shape.num_layers)
        ]

    def stack_of(self, layer: int) -> int:
        """Return the place of the stack that a layer of the shallow model is in."""
        return next(place for place, stack in enumerate(self.stacks) if layer in stack)


def kept_bytes(layers: Sequence[float], boundary: int | None) -> list[float]:
    """Return what each layer keeps for the backward pass, in bytes.

    Args:
        layers: Saved in each layer, 0 where gradients do not pass.
        boundary: Under gradient checkpointing the output of a layer, which is all that a layer
            keeps then; else None.
    """
    if boundary is None:
        return list(layers)
    return [boundary if num_bytes > 0 else 0 for num_bytes in layers]


def plain_label(label: Label) -> Label:
    """Return a label whose path is free of what injections put into it."""
    return (plain_path(label[0]), label[1])


def plain_path(path: str) -> str:
    """Return a module path without what injections put into it."""
    return path.removeprefix("base_model.model.").replace(".base_layer", "")
