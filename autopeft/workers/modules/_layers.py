"""How a part of a method sits around one layer of a model.

A *part* is what a method adds to one place: its parameters and its formula. It is a plain
``nn.Module`` that knows nothing of PEFT. What PEFT needs to see stands here: :class:`Around`
takes the place of a layer and calls it as ``base_layer``. For parts of blocks see ``_blocks``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import nn
from transformers.pytorch_utils import Conv1D

Tensor = torch.Tensor
#: Modules that shared parameters live in, by a key of the method's choice.
Pool = dict[Any, nn.Module]


class Sharing(nn.Module):
    """A module that can have modules in common with others."""

    def share(self, name: str, pool: Pool, key: Any, make: Callable[[], nn.Module]) -> None:
        """Make ``self.<name>`` a module that several parts have in common.

        The first part that asks for ``key`` owns it: there it is saved and counted, once. The
        others refer to it.
        """
        if key in pool:
            self.__dict__[name] = pool[key]
        else:
            setattr(self, name, pool.setdefault(key, make()))


class Part(Sharing):
    """What one method adds around one layer.

    Contract of a subclass:

    * ``__init__(base, config, path, pool)`` calls ``super().__init__()`` and makes the
      parameters: float32, on the CPU, drawn from the global generator, in an order that depends
      on the arguments alone. The caller moves them to the device of ``base`` and keeps no
      reference. What does not train is a buffer.
    * :meth:`forward` is the formula. It calls ``base`` once.
    * :meth:`merged` returns weight and bias of a layer that computes the same, for methods
      whose declaration says that they can be merged.

    Args of ``__init__``:
        base: The layer below all adapters; its shape is what counts.
        config: The method's config.
        path: Path of the layer in the model, e.g. ``bert.encoder.layer.0.output.dense``.
        pool: Modules shared by the parts of one adapter, see :meth:`share`.
    """

    def forward(self, base: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return the output of the adapted layer; ``base`` is the layer without this part."""
        raise NotImplementedError

    def merged(
        self, base: nn.Module, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias that make ``base`` compute what the part computes.

        Args:
            base: The layer.
            weight: Its weight; of a linear layer ``out_features x in_features``, also where
                the layer itself keeps it transposed.
            bias: Its bias, None where it has none.
        """
        raise ValueError(f"{type(self).__name__} cannot be merged into the base weights")


class AdditivePart(Part):
    """A part that adds :meth:`delta` of the input to the output of the layer."""

    def delta(self, x: Tensor) -> Tensor:
        """Return what is added, given the input in the dtype of the part's parameters."""
        raise NotImplementedError

    def forward(self, base: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return ``base(x) + delta(x)`` in the dtype of the layer."""
        output: Tensor = base(x, *args, **kwargs)
        return output + self.delta(x.to(dtype_of(self))).to(output.dtype)


class MethodLayer(nn.Module, BaseTunerLayer):  # type: ignore[misc]  # PEFT is untyped
    """What :class:`Around` and the layers of ``_blocks`` have in common: parts by adapter name.

    Args:
        attribute: Name of the child that holds the parts, ``<method>_part``; it is in the
            key of every saved tensor.
    """

    def __init__(self, attribute: str) -> None:
        super().__init__()
        self.adapter_layer_names = (attribute,)
        setattr(self, attribute, nn.ModuleDict())
        self._active_adapter: list[str] = []
        self._disable_adapters = False
        self.merged_adapters: list[str] = []

    @property
    def parts(self) -> dict[str, Any]:
        """The parts by adapter name."""
        parts: Any = getattr(self, self.adapter_layer_names[0])
        assert isinstance(parts, nn.ModuleDict)
        return cast("dict[str, Any]", parts)

    def add_part(self, adapter_name: str, part: nn.Module, like: nn.Module) -> None:
        """Add a part, on the device of ``like``."""
        self.__dict__["like"] = like  # not registered: it is no child
        self.parts[adapter_name] = part
        self._move_adapter_to_device_of_base_layer(adapter_name)
        BaseTunerLayer.set_adapter(self, [*self._active_adapter, adapter_name])

    def _move_adapter_to_device_of_base_layer(
        self, adapter_name: str, device: torch.device | None = None
    ) -> None:
        """Move a part, unless it still waits for its numbers on the meta device."""
        if adapter_name not in self.parts:
            return
        part = self.parts[adapter_name]
        if not any(tensor.is_meta for tensor in part.parameters()):
            part.to(device or device_of(self.__dict__["like"]))

    def active_parts(self) -> Iterator[Any]:
        """Yield the parts that take part in the forward pass."""
        if not self.disable_adapters:
            for name in self._active_adapter:
                if name in self.parts and name not in self.merged_adapters:
                    yield self.parts[name]


class Around(MethodLayer):
    """A layer with parts around it, in its place."""

    def __init__(self, attribute: str, base_layer: nn.Module) -> None:
        super().__init__(attribute)
        self.base_layer = base_layer
        self._unmerged: tuple[nn.Parameter, nn.Parameter | None] | None = None

    def __getattr__(self, name: str) -> Any:
        """Answer with the layer's own attribute (``in_features``, ``eps``, ``stride``, ...)."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer" or name.startswith("_"):
                raise
            return getattr(self.base_layer, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer with its active parts, the first added nearest to it."""
        run: Callable[..., Any] = self.base_layer
        for part in self.active_parts():
            run = partial(part, run)
        return run(*args, **kwargs)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Replace the weights of the layer by what computes the same without the parts.

        The weights before are kept until :meth:`unmerge`; their tensors are not written to.
        Adapters of other methods between the parts and the layer are merged first.

        Raises:
            ValueError: a part cannot be merged, the weights are quantised, or the result
                is not finite and ``safe_merge`` asks for it.
        """
        names = [n for n in check_adapters_to_merge(self, adapter_names) if n in self.parts]
        if not names:
            return
        if isinstance(self.base_layer, BaseTunerLayer) and not self.base_layer.merged:
            self.base_layer.merge(safe_merge=safe_merge)
        base = self.get_base_layer()
        bias = getattr(base, "bias", None)
        if not base.weight.is_floating_point():
            raise ValueError(f"quantised weights ({base.weight.dtype}) cannot be merged into")
        self._unmerged = self._unmerged or (base.weight, bias)
        with torch.no_grad():
            weight = base.weight.T if isinstance(base, Conv1D) else base.weight
            weight, new_bias = weight.float(), None if bias is None else bias.float()
            for name in names:
                weight, new_bias = self.parts[name].merged(base, weight, new_bias)
            if bias is None and new_bias is not None:
                raise ValueError("the layer has no bias, the merged one would need it")
            weight = weight.T if isinstance(base, Conv1D) else weight
            tensors = [t for t in (weight, new_bias) if t is not None]
            if safe_merge and not all(torch.isfinite(tensor).all() for tensor in tensors):
                raise ValueError("the merged weights are not finite: the adapter is broken")
            _put(base, "weight", weight)
            if new_bias is not None:
                _put(base, "bias", new_bias)
        self.merged_adapters.extend(names)

    def unmerge(self) -> None:
        """Put the weights back that :meth:`merge` replaced, to the last bit."""
        if self._unmerged is not None:
            base = self.get_base_layer()
            weight, bias = self._unmerged
            base.weight = weight
            if bias is not None:
                base.bias = bias
        self._unmerged = None
        self.merged_adapters.clear()


def widths_of(base: nn.Module) -> tuple[int, int]:
    """Return the features that enter and leave a layer (channels of a convolution)."""
    if isinstance(base, Conv1D):
        return int(base.weight.shape[0]), int(base.weight.shape[1])
    for names in (
        ("in_features", "out_features"),
        ("in_channels", "out_channels"),
        ("num_embeddings", "embedding_dim"),
    ):
        if all(hasattr(base, name) for name in names):
            return getattr(base, names[0]), getattr(base, names[1])
    weight = getattr(base, "weight", None)
    if isinstance(weight, Tensor) and weight.ndim == 1:
        return weight.numel(), weight.numel()
    raise TypeError(f"no widths known of a {type(base).__name__}")


def substituted(
    base: Callable[..., Any], tensors: dict[str, Tensor], *args: Any, **kwargs: Any
) -> Any:
    """Run a layer with other tensors in place of its own parameters; gradients reach them.

    Args:
        base: What a part is given: a layer, or adapters of other methods around one.
        tensors: ``{"weight": ..., "bias": ...}`` of the innermost layer.
        args: What the layer is called with.
        kwargs: The same by name.
    """
    if not isinstance(base, nn.Module):
        raise TypeError("one layer cannot carry two parts that substitute its parameters")
    prefix, inner = "", cast("Any", base)
    while hasattr(inner, "base_layer"):
        prefix, inner = f"{prefix}base_layer.", inner.base_layer
    named = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
    return torch.func.functional_call(base, named, args, kwargs)


def dtype_of(module: nn.Module) -> torch.dtype:
    """Return the dtype of a part: of its first floating-point parameter or buffer."""
    for tensors in (module.parameters(), module.buffers()):
        for tensor in tensors:
            if tensor.is_floating_point():
                return tensor.dtype
    return torch.float32


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a module's first parameter; the CPU where it has none."""
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def _put(base: nn.Module, name: str, tensor: Tensor) -> None:
    """Set a new parameter in the dtype of the old one, whose storage may be shared."""
    old = getattr(base, name)
    new = tensor.to(old.dtype).contiguous().clone()
    setattr(base, name, nn.Parameter(new, requires_grad=old.requires_grad))
