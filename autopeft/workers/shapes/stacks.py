"""Find the stacks of repeated layers, and what each layer of them holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from autopeft.workers.shapes.names import roles_by_name
from autopeft.workers.shapes.roles import Block, roles_by_flow
from autopeft.workers.shapes.tracing import Node, Trace, layer_kind

_MIXING = ("q", "qkv", "attention_output", "mixer_in")


@dataclass(slots=True)
class Stack:
    """A list of layers of the model.

    Attributes:
        name: ``encoder`` or ``decoder`` where there are both, else ``layers``.
        path: Path of the list.
        first_layer: Number of the model's layer that stands first in it.
        layers: What each of its layers holds.
    """

    name: str
    path: str
    first_layer: int
    layers: list[Block]


def find_stacks(model: nn.Module, trace: Trace | None) -> list[Stack]:
    """Return the stacks in forward order, their layers numbered one after the other.

    A stack is a list of modules each of which holds an attention or a state-space mixer. Where
    such lists are nested (stages of a hierarchical model), the inner ones count.
    """
    found: list[tuple[int, str, list[Block]]] = []
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module):
            layers = [
                roles_of_layer(layer, f"{path}.{number}", trace)
                for number, layer in enumerate(module)
            ]
            if all(any(site in layer.sites for site in _MIXING) for layer in layers):
                found.append((_first_call(path, trace), path, layers))
    found = [
        stack for stack in found if not any(other[1].startswith(f"{stack[1]}.") for other in found)
    ]
    found.sort(key=lambda stack: stack[0])
    return _numbered([(path, layers) for _, path, layers in found])


def roles_of_layer(layer: nn.Module, prefix: str, trace: Trace | None) -> Block:
    """Return what one layer holds; by its names where the forward pass could not be traced."""
    if trace is None:
        return roles_by_name(layer, prefix)
    nodes = list(_nodes_of(prefix, trace))
    if not any(node.path for node in nodes):
        return Block()
    return roles_by_flow(layer, prefix, nodes)


def _nodes_of(prefix: str, trace: Trace) -> Iterator[Node]:
    """Yield what ran in a layer, and the attentions that its layers take part in."""
    for node in trace.nodes:
        below = node.path.startswith(f"{prefix}.")
        if below or (not node.path and any(n.path.startswith(f"{prefix}.") for n in node.inputs)):
            yield node


def _first_call(path: str, trace: Trace | None) -> int:
    if trace is None:
        return 0
    return next((n.order for n in trace.nodes if n.path.startswith(f"{path}.")), 0)


def _numbered(stacks: Sequence[tuple[str, list[Block]]]) -> list[Stack]:
    """Name the stacks and count their layers through."""
    numbered: list[Stack] = []
    first_layer = 0
    for path, layers in stacks:
        words = [word for word in path.split(".") if word in ("encoder", "decoder")]
        name = words[0] if words and len(stacks) > 1 else "layers"
        taken = sum(stack.name.rstrip("0123456789") == name for stack in numbered)
        name = f"{name}{taken + 1}" if taken else name
        numbered.append(Stack(name, path, first_layer, layers))
        first_layer += len(layers)
    return numbered


def stacks_along(model: nn.Module, paths: Sequence[str]) -> list[Stack]:
    """Return the lists of layers that the given module paths run through, with nothing in them.

    Used where a person named the sites of a model in which no stack was found.
    """
    found: dict[str, int] = {}
    for path in paths:
        words = path.split(".")
        number = next((i for i, word in enumerate(words) if word.isdigit()), None)
        if number:
            stack = ".".join(words[:number])
            found[stack] = len(list(model.get_submodule(stack).children()))
    return _numbered([(path, [Block() for _ in range(size)]) for path, size in found.items()])


def linear_paths(model: nn.Module) -> list[str]:
    """Return the paths of all linear layers, with ``*`` for numbers, each once."""
    paths = [
        ".".join("*" if word.isdigit() else word for word in path.split("."))
        for path, module in model.named_modules()
        if layer_kind(module) in ("linear", "conv1d")
    ]
    return list(dict.fromkeys(paths))
