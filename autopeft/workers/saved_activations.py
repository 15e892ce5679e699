"""Keep what nonlinear parts save for the backward pass in 4 bits a number.

Frozen linear layers need nothing of what they are given, so under PEFT it is the normalisations,
the activation functions and the products of gated feed-forward blocks that hold most of a step's
memory. What they save is stored in 4 bits and made whole again when the backward pass asks for it,
as Selective Activation does (S2A, arXiv 2503.08154). The forward pass stays as it is to the bit;
gradients come out of values that are off by at most half a step of their block.

A block is :data:`BLOCK` numbers that follow each other in memory; its 16 levels lie evenly between
its least and its greatest number. Least number and step are kept in the type of the tensor, which
makes 4.5 bits a number for half types and 5 for float32. Numbers are rounded to the nearest level,
never at random: the same tensor gives the same bits, and a trial in segments equals one in one go.

Left as it is:

* what is smaller than what the module takes in, such as means and weights;
* activation functions that keep what they give out (ReLU, tanh, sigmoid, softmax): the next layer
  may keep that very tensor, and ReLU needs its exact zeros;
* what linear layers, attention and dropout save;
* nonlinear operations that are no module of their own, such as the softmax inside attention.

Other hooks on saved tensors stay in force: they are given the packed tensors in place of the
original. So gradient checkpointing drops those as well, and packs them again when it computes a
layer for the second time.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.hooks import RemovableHandle

#: Numbers that share their levels.
BLOCK = 64
_MOST = 15  # the last of 16 levels

_NORM = re.compile(r"Norm(\dd)?$")
_ACTIVATION_FILES = ("torch.nn.modules.activation", "transformers.activations")
#: Activation functions whose result is what they save, and what is none.
_LEFT_ALONE = frozenset(
    (
        *("ReLU", "RReLU", "Threshold", "Sigmoid", "Tanh", "ELU", "CELU", "SELU"),
        *("Softmax", "Softmax2d", "Softmin", "LogSoftmax"),
        *("LinearActivation", "MultiheadAttention"),
    )
)
_FEED_FORWARD = re.compile(r"(MLP|Mlp|FFN|FeedForward|DenseGatedActDense)$")

Pack = Callable[[torch.Tensor], Any]
Unpack = Callable[[Any], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedTensor:
    """A tensor in 4 bits a number.

    Attributes:
        pairs: ``blocks x BLOCK / 2`` bytes of two numbers each.
        least: ``blocks x 1``, the least number of each block.
        step: ``blocks x 1``, from one level to the next.
        shape: Of the tensor.
    """

    pairs: torch.Tensor
    least: torch.Tensor
    step: torch.Tensor
    shape: torch.Size

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        return self.pairs.nbytes + self.least.nbytes + self.step.nbytes


def pack(tensor: torch.Tensor) -> PackedTensor:
    """Return a tensor of floating-point numbers in 4 bits each.

    Each number is off by at most half a step, up to the rounding of its type. What is not finite
    makes its whole block so, and so does a range beyond the greatest number of the type.
    """
    flat = tensor.detach().reshape(-1)
    if missing := -flat.numel() % BLOCK:
        flat = torch.nn.functional.pad(flat, (0, missing))
    blocks = flat.view(-1, BLOCK)
    least, greatest = torch.aminmax(blocks, dim=1, keepdim=True)
    wide = torch.promote_types(flat.dtype, torch.float32)
    step = ((greatest.to(wide) - least.to(wide)) / _MOST).to(flat.dtype)
    step.clamp_(min=torch.finfo(flat.dtype).tiny)
    levels = (blocks - least).div_(step).round_().clamp_(0, _MOST).to(torch.uint8)
    pairs = levels[:, 1::2] << 4
    pairs |= levels[:, ::2]
    return PackedTensor(pairs=pairs, least=least, step=step, shape=tensor.shape)


def unpack(packed: PackedTensor) -> torch.Tensor:
    """Return a tensor as near to the one that was packed as its levels are."""
    num_blocks, half = packed.pairs.shape
    blocks = packed.least.new_empty((num_blocks, half, 2))
    blocks[..., 0] = packed.pairs & _MOST
    blocks[..., 1] = packed.pairs >> 4
    flat = blocks.view(num_blocks, -1).mul_(packed.step).add_(packed.least).view(-1)
    return flat[: packed.shape.numel()].view(packed.shape)


def keep_in_4_bits(model: nn.Module) -> list[RemovableHandle]:
    """Make the nonlinear parts of a model save in 4 bits, from now on.

    Args:
        model: With all its modules injected, and checkpointing switched on where it is to be.

    Returns:
        What takes it back.
    """
    handles = []
    for module in model.modules():
        if _is_norm(module) or _is_activation(module):
            handles += _Region().around(module)
        elif _is_gated(module):
            region = _Region()
            handles += region.around(module)
            for child in module.children():
                handles += region.spare(child)
    return handles


@contextmanager
def kept_in_4_bits(model: nn.Module) -> Iterator[None]:
    """Do the same inside a ``with`` block."""
    handles = keep_in_4_bits(model)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def is_packing() -> bool:
    """Tell whether a tensor is being packed right now, for those who follow every operation."""
    return _Packing.now > 0


def _is_norm(module: nn.Module) -> bool:
    return _NORM.search(type(module).__name__) is not None and not any(module.children())


def _is_activation(module: nn.Module) -> bool:
    kind = type(module)
    return kind.__module__ in _ACTIVATION_FILES and kind.__name__ not in _LEFT_ALONE


def _is_gated(module: nn.Module) -> bool:
    """Tell whether a module of transformers may multiply what comes out of its activation."""
    kind = type(module)
    return (
        kind.__module__.startswith("transformers.")
        and _FEED_FORWARD.search(kind.__name__) is not None
        and not any(True for _ in module.parameters(recurse=False))
        and any(map(_is_activation, module.children()))
    )


class _Region:
    """Calls of one module, during which saved tensors are packed."""

    def __init__(self) -> None:
        self._entered: list[tuple[_Packing, saved_tensors_hooks] | None] = []

    def around(self, module: nn.Module) -> list[RemovableHandle]:
        """Pack what is saved while a module runs, in its submodules too."""
        return [
            module.register_forward_pre_hook(self._enter, with_kwargs=True),
            # Where an exception ends it too, as that of a layer that is computed again does; and
            # before the region around goes on.
            module.register_forward_hook(self._leave, always_call=True, prepend=True),
        ]

    def spare(self, module: nn.Module) -> list[RemovableHandle]:
        """Leave out what is saved while a submodule runs."""
        return [
            module.register_forward_pre_hook(self._pause),
            module.register_forward_hook(self._resume, always_call=True),
        ]

    def _enter(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = [each for each in (*args, *kwargs.values()) if isinstance(each, torch.Tensor)]
        if not given or not torch.is_grad_enabled():
            self._entered.append(None)
            return
        packing = _Packing(given[0].numel())
        hooks = saved_tensors_hooks(packing.pack, packing.unpack)
        hooks.__enter__()
        self._entered.append((packing, hooks))

    def _leave(self, *_: object) -> None:
        entered = self._entered.pop() if self._entered else None
        if entered is not None:
            packing, hooks = entered
            hooks.__exit__()
            packing.forget()

    def _pause(self, *_: object) -> None:
        if self._entered and self._entered[-1] is not None:
            self._entered[-1][1].__exit__()

    def _resume(self, *_: object) -> None:
        if self._entered and self._entered[-1] is not None:
            self._entered[-1][1].__enter__()


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the graph holds in place of a saved tensor: its parts as the hooks around want them."""

    parts: tuple[Any, ...]
    shape: torch.Size | None


class _Packing:
    """One call of a module: the hooks around it, and what it has packed already.

    The graph holds it, and through it the hooks around. It must be in no reference cycle: those of
    checkpointing hold what a layer was given.

    Args:
        least_size: Numbers of a tensor that is packed, at least.
    """

    now = 0

    def __init__(self, least_size: int) -> None:
        self._least_size = least_size
        around: Any = torch._C._autograd._top_saved_tensors_default_hooks(False)
        self._pack_around: Pack = torch.Tensor.detach
        self._unpack_around: Unpack = _as_it_is
        if around is not None:
            self._pack_around, self._unpack_around = around
        self._packed: dict[Any, tuple[weakref.ref[torch.UntypedStorage], PackedTensor]] = {}

    def forget(self) -> None:
        """Hold nothing any more: the graph is to be the only one that does."""
        self._packed.clear()

    def pack(self, tensor: torch.Tensor) -> _Kept:
        """Return what the graph is to hold of a tensor."""
        is_large = tensor.ndim > 1 and tensor.numel() >= self._least_size
        if not (is_large and tensor.is_floating_point() and tensor.layout is torch.strided):
            return _Kept((self._pack_around(tensor),), None)
        storage = tensor.untyped_storage()
        view = (tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        key = (storage._cdata, tensor._version, *view)
        known = self._packed.get(key)
        if known is not None and known[0]() is not None:  # saved twice, as x is for x * x
            packed = known[1]
        else:
            _Packing.now += 1
            try:
                packed = pack(tensor)
            finally:
                _Packing.now -= 1
            self._packed[key] = (weakref.ref(storage), packed)
        parts = (packed.pairs, packed.least, packed.step)
        return _Kept(tuple(map(self._pack_around, parts)), packed.shape)

    def unpack(self, kept: _Kept) -> torch.Tensor:
        """Return the tensor, or what comes near it."""
        parts = tuple(map(self._unpack_around, kept.parts))
        if kept.shape is None:
            return parts[0]
        pairs, least, step = parts
        return unpack(PackedTensor(pairs=pairs, least=least, step=step, shape=kept.shape))


def _as_it_is(tensor: torch.Tensor) -> torch.Tensor:
    return tensor
