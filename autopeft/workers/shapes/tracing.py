"""Follow one forward pass on the meta device: which layer feeds which.

Every tensor is tagged with the layers it comes from, as far back as the nearest ones: the output
of a linear layer, a normalisation, a convolution, an embedding or an attention carries that layer
alone, and every other operation unites the tags of its inputs. So an attention knows which linear
layers made its queries, keys and values, and a feed-forward's last layer knows the two before it,
whatever they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

NodeKind = Literal["linear", "conv1d", "convolution", "norm", "embedding", "experts", "attention"]

_TOKENS = 8
_ACTIVATIONS = frozenset({"gelu", "relu", "silu", "sigmoid", "tanh", "mish", "softplus", "erf"})
_PRODUCTS = frozenset({"matmul", "bmm", "__matmul__", "einsum", "baddbmm"})


@dataclass(slots=True, eq=False)
class Node:
    """A layer that ran, or an attention between layers.

    Attributes:
        path: Module path; "" for an attention.
        kind: What it is. ``experts`` stands for a module that holds stacked weights.
        order: Consecutive number of its first call.
        inputs: The nearest layers that its input comes from.
        activated: Those of them whose output went through an activation function on the way.
        tensor: Identity of the tensor it was called with, equal for layers that share it.
        arguments: For an attention, the nearest layers behind queries, keys and values.
    """

    path: str
    kind: NodeKind
    order: int
    inputs: frozenset[Node] = frozenset()
    activated: frozenset[Node] = frozenset()
    tensor: int = 0
    arguments: tuple[frozenset[Node], ...] = ()


@dataclass(slots=True)
class Trace:
    """What ran.

    Attributes:
        nodes: In the order of their first calls; those that do not reach the output are left
            out.
    """

    nodes: list[Node] = field(default_factory=list)

    def by_path(self) -> dict[str, Node]:
        """Return the layers that ran, by module path."""
        return {node.path: node for node in self.nodes if node.path}


def layer_kind(module: nn.Module) -> NodeKind | None:
    """Return what a module is, None where it is no layer of its own."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, Conv1D):
        return "conv1d"
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return "convolution"
    if isinstance(module, nn.Embedding):
        return "embedding"
    own = dict(module.named_parameters(recurse=False))
    if any(p.ndim == 3 and p.shape[0] > 1 for p in own.values()):
        return "experts"
    is_vector = bool(own) and all(p.ndim == 1 for p in own.values())
    if is_vector and "weight" in own and "norm" in type(module).__name__.casefold():
        return "norm"
    return None


def trace(model: Any) -> Trace | None:
    """Run a model on the meta device once and return what fed what.

    Returns:
        None where the forward pass cannot be run without real values.
    """
    mode = _Tagging()
    try:
        inputs = example_inputs(model)
        with torch.no_grad(), _watched(model, mode), mode:
            outputs = model(**inputs)
    except Exception:  # an architecture may do anything; names are looked at instead
        return None
    final = getattr(outputs, "logits", None)
    if final is None:
        return None
    reached = _ancestors(node for node, _ in mode.tags_of(final))
    return Trace(nodes=[node for node in mode.nodes if node in reached])


def example_inputs(model: Any) -> dict[str, torch.Tensor]:
    """Return the smallest sensible batch for ``forward``, on the meta device.

    There is no attention mask: all-ones masks are read by value, which a meta tensor lacks.
    """
    config, name = model.config, model.main_input_name
    text = torch.empty((1, _TOKENS), dtype=torch.long, device="meta")
    if name == "pixel_values":
        config = getattr(config, "vision_config", None) or config
        size = config.image_size
        height, width = size if isinstance(size, list | tuple) else (size, size)
        shape: tuple[int, ...] = (1, int(getattr(config, "num_channels", 3)), height, width)
        return {name: torch.empty(shape, device="meta")}
    if name in ("input_values", "input_features"):
        if hasattr(config, "max_length") and hasattr(config, "num_mel_bins"):
            shape = (1, config.max_length, config.num_mel_bins)
        elif hasattr(config, "max_source_positions") and hasattr(config, "num_mel_bins"):
            shape = (1, config.num_mel_bins, 2 * config.max_source_positions)
        else:
            shape = (1, 16_000)
        return {name: torch.empty(shape, device="meta")}
    if type(model).__name__.endswith("ForMultipleChoice"):
        return {"input_ids": text.expand(1, 2, -1).contiguous()}
    inputs = {"input_ids": text}
    if getattr(config, "is_encoder_decoder", False) and hasattr(model, "lm_head"):
        inputs["decoder_input_ids"] = torch.empty_like(text)
    return inputs


Tag = tuple[Node, bool]


class _Tagging(TorchFunctionMode):
    """Carry the tags through every operation; find attention by its products and softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self._tags: dict[int, frozenset[Tag]] = {}
        # Tensors are kept, so that no identity is used twice.
        self._kept: list[torch.Tensor] = []
        self._products: list[tuple[frozenset[Node], frozenset[Node]]] = []
        self._weights: dict[int, tuple[frozenset[Node], frozenset[Node]]] = {}

    def tags_of(self, *values: Any) -> frozenset[Tag]:
        found: set[Tag] = set()
        for tensor in _tensors(values):
            found |= self._tags.get(id(tensor), frozenset())
        return frozenset(found)

    def tag(self, value: Any, tags: Iterable[Tag]) -> None:
        tags = frozenset(tags)
        for tensor in _tensors((value,)):
            self._tags[id(tensor)] = tags
            self._kept.append(tensor)

    def add(self, path: str, kind: NodeKind, **more: Any) -> Node:
        node = Node(path, kind, len(self.nodes), **more)
        self.nodes.append(node)
        return node

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            named = [kwargs.get(key) for key in ("query", "key", "value")]
            given = [*args[:3], *named[len(args[:3]) :]]
            self._attend(result, *(_nodes(self.tags_of(value)) for value in given))
            return result
        tags = self.tags_of(args, kwargs)
        if name in _PRODUCTS and self._product(name, args, result):
            return result
        if name == "softmax":
            self._softmax(args, tags, result)
        elif any(id(t) in self._weights for t in _tensors(args)):
            # Dropout, casts and reshapes of attention weights are attention weights.
            for tensor in _tensors((result,)):
                source = next(id(t) for t in _tensors(args) if id(t) in self._weights)
                self._weights[id(tensor)] = self._weights[source]
        if name.rstrip("_") in _ACTIVATIONS:
            tags = frozenset((node, True) for node, _ in tags)
        if tags:
            self.tag(result, tags)
            if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):
                self.tag(args[0], tags)
        return result

    def _product(self, name: str, args: tuple[Any, ...], result: Any) -> bool:
        """Note a product; True where it was attention weights times values."""
        left, right = args[1:3] if name in ("einsum", "baddbmm") else args[:2]
        weights = next(
            (self._weights[id(t)] for t in _tensors((left,)) if id(t) in self._weights), None
        )
        if weights is not None:
            self._attend(result, *weights, _nodes(self.tags_of(right)))
            return True
        pair = (_nodes(self.tags_of(left)), _nodes(self.tags_of(right)))
        if all(pair):
            self._products.append(pair)
        return False

    def _softmax(self, args: tuple[Any, ...], tags: frozenset[Tag], result: Any) -> None:
        """Take the first product among the softmax's sources for queries times keys."""
        sources = _nodes(tags)
        products, self._products = self._products, []
        for left, right in products:
            if left <= sources and right <= sources:
                self._weights[id(result)] = (left, right)
                return

    def _attend(self, result: Any, *arguments: frozenset[Node]) -> None:
        node = self.add("", "attention", arguments=arguments, inputs=frozenset().union(*arguments))
        first = next(iter(_tensors((result,))))
        self.tag(first, {(node, False)})


@contextmanager
def _watched(model: nn.Module, mode: _Tagging) -> Iterator[None]:
    """Note each layer that runs; experts are passed by, since they ask for values."""
    nodes: dict[str, Node] = {}

    def after(path: str, kind: NodeKind) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            tags = mode.tags_of(args, kwargs)
            if path not in nodes:
                first = next(iter(_tensors((args, kwargs))), None)
                nodes[path] = mode.add(
                    path,
                    kind,
                    inputs=_nodes(tags),
                    activated=frozenset(node for node, activated in tags if activated),
                    tensor=id(first),
                )
                if first is not None:
                    mode.tag(first, tags)
            mode.tag(output, {(nodes[path], False)})

        return hook

    with ExitStack() as stack:
        for path, module in model.named_modules():
            kind = layer_kind(module)
            if kind is None:
                continue
            if kind == "experts":
                stack.enter_context(_passing(module))
            handle = module.register_forward_hook(after(path, kind), with_kwargs=True)
            stack.callback(handle.remove)
        for module in model.modules():
            if hasattr(module, "warn_if_padding_and_no_attention_mask"):
                # It looks for padding among token ids, which a meta tensor does not have.
                stack.enter_context(_replaced(module, "warn_if_padding_and_no_attention_mask"))
        yield


@contextmanager
def _passing(module: nn.Module) -> Iterator[None]:
    """Let a module return an empty tensor like its first input."""

    def forward(*args: Any, **kwargs: Any) -> torch.Tensor:
        return torch.empty_like(next(iter(_tensors((args, kwargs)))))

    with _replaced(module, "forward", forward):
        yield


@contextmanager
def _replaced(
    module: nn.Module, name: str, function: Callable[..., Any] = lambda *a, **k: None
) -> Iterator[None]:
    """Put a function in the place of a method of one module."""
    setattr(module, name, function)
    try:
        yield
    finally:
        delattr(module, name)


def _nodes(tags: Iterable[Tag]) -> frozenset[Node]:
    return frozenset(node for node, _ in tags)


def _ancestors(nodes: Iterable[Node]) -> set[Node]:
    reached: set[Node] = set()
    open_nodes = list(nodes)
    while open_nodes:
        node = open_nodes.pop()
        if node not in reached:
            reached.add(node)
            open_nodes += node.inputs
    return reached


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in nested tuples, lists and mappings."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _tensors(inner)
