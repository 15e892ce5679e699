"""Cut a model down to its first layers: what one layer saves, every layer like it saves."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autopeft.records import ModelShape, SiteShape

#: Layers kept of each stack: one that gradients only leave, one that they flow through.
NUM_KEPT = 2
#: A stack whose layers differ is kept up to the first layer of every kind, and this far at most.
MOST_KEPT = 8
#: How configs of transformers call their numbers of layers.
_COUNTS = (
    "num_hidden_layers",
    "num_layers",
    "num_decoder_layers",
    "num_encoder_layers",
    "encoder_layers",
    "decoder_layers",
    "n_layer",
    "n_layers",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A run of layers of the same kind.

    Attributes:
        start: Number of its first layer.
        num_layers: How many there are.
    """

    start: int
    num_layers: int

    @property
    def top(self) -> int:
        """Number of the last layer."""
        return self.start + self.num_layers - 1

    def __contains__(self, layer: int) -> bool:
        return self.start <= layer <= self.top


def stacks_of(shape: ModelShape) -> tuple[Stack, ...]:
    """Return the stacks of a model in the order of their numbering."""
    sizes = [number for _, number in shape.stacks] or [shape.num_layers]
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    return tuple(
        Stack(start=start, num_layers=size) for start, size in zip(starts, sizes, strict=True)
    )


def cut_shape(shape: ModelShape) -> ModelShape:
    """Return the shape of the model with the first layers of each stack alone.

    Numbers of parameters stay those of the whole model. A model with no more layers than are
    kept is returned as it is.
    """
    old = stacks_of(shape)
    sizes = [_num_kept(shape, stack) for stack in old]
    if all(size == stack.num_layers for size, stack in zip(sizes, old, strict=True)):
        return shape
    new = stacks_of(replace(shape, num_layers=sum(sizes), stacks=tuple(("", n) for n in sizes)))
    pairs = list(zip(old, new, strict=True))

    def moved(site: SiteShape) -> SiteShape:
        if not site.is_in_layers:
            return site
        before, after = next(pair for pair in pairs if site.first_layer in pair[0])
        layers = None
        if site.layers is not None:
            kept = [layer - before.start for layer in site.layers if layer in before]
            layers = tuple(after.start + k for k in kept if k < after.num_layers)
        return replace(site, first_layer=after.start, layers=layers)

    names = [name for name, _ in shape.stacks]
    groups: dict[str, Any] = {
        group: tuple(moved(site) for site in getattr(shape, group))
        for group in ("sites", "norms", "embeddings", "blocks", "convolutions", "parameters")
    }
    return replace(
        shape,
        num_layers=sum(sizes),
        stacks=tuple(zip(names, sizes, strict=True)) if names else (),
        **groups,
    )


def _num_kept(shape: ModelShape, stack: Stack) -> int:
    """Return how many layers hold one of every kind and end with two alike, where there are two."""
    firsts = [
        min(layer for layer in site.layers if layer in stack) - stack.start
        for site in shape.all_sites
        if site.layers and any(layer in stack for layer in site.layers)
    ]
    wanted = max([NUM_KEPT, *(first + NUM_KEPT for first in firsts)])
    return min(stack.num_layers, wanted if wanted <= MOST_KEPT else stack.num_layers)


def cut_config(config: Any, shape: ModelShape, cut: ModelShape) -> Any:
    """Return a copy of a transformers config with the layers of ``cut`` alone."""
    config = copy.deepcopy(config)
    old, new = stacks_of(shape), stacks_of(cut)
    by_size = {before.num_layers: after.num_layers for before, after in zip(old, new, strict=True)}
    for part in _parts(config):
        counts = {
            name: value
            for name in _COUNTS
            if isinstance(value := getattr(part, name, None), int) and value in by_size
        }
        for name, value in counts.items():
            setattr(part, name, by_size[value])
        for name, value in list(vars(part).items()):
            # One entry a layer, such as the kinds of attention.
            if isinstance(value, list) and len(value) in counts.values():
                setattr(part, name, value[: by_size[len(value)]])
    return config


def _parts(config: Any) -> Iterator[Any]:
    """Yield a config and the configs inside it."""
    yield config
    for value in list(vars(config).values()):
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            yield from _parts(value)


def layer_prefixes(shape: ModelShape) -> tuple[tuple[str, int], ...]:
    """Return the module path in front of each layer number, with the number it counts from."""
    found = {
        (site.path.partition("{layer}")[0], site.first_layer)
        for site in shape.all_sites
        if site.is_in_layers
    }
    return tuple(sorted(found))


def layer_of(path: str, prefixes: Sequence[tuple[str, int]]) -> int | None:
    """Return the number of the layer that a module path stands in, None outside of them.

    Args:
        path: With whatever an injection put in front.
        prefixes: What :func:`layer_prefixes` returned.
    """
    dotted = f".{path}"
    for prefix, first in prefixes:
        _, found, rest = dotted.partition(f".{prefix}")
        number = rest.partition(".")[0]
        if found and number.isdigit():
            return first + int(number)
    return None
