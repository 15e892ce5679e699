"""Parts that change a weight: ``(W + change(theta)) x`` with nothing dense kept for backward.

What a method of this kind learns is small (values of a mask, factors, seeds of a projection),
but the change of the weight that it stands for is as large as the weight. Automatic
differentiation would keep that change for every layer until the backward pass. Here it is made,
applied and dropped, and made again when the gradient comes: at any time one layer's change is
in memory, and what stays is the input of the layer and what the method learns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from autopeft.workers.modules._layers import Part, widths_of

Tensor = torch.Tensor


class WeightPart(Part):
    """A part that adds a change to the weight of a linear layer or a convolution.

    Contract of a subclass: :meth:`learned` gives the tensors that train, and :meth:`change`
    makes the change from them: a function of its arguments, buffers and the frozen weight,
    differentiable in its arguments, in the layout of :func:`weight_of`.

    The change is added beside the layer, ``base(x) + change x``, so that other methods on the
    same layer keep what they do. In low precision the two terms are rounded apart: a change
    far smaller than the weight is not lost.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        # Not registered: the layer is no child of its part.
        self.__dict__["layer"] = base

    def learned(self) -> tuple[Tensor, ...]:
        """Return what trains, in the order of the arguments of :meth:`change`."""
        return tuple(self.parameters())

    def change(self, *learned: Tensor) -> Tensor:
        """Return the change of the weight, shaped as :func:`weight_of` gives it."""
        raise NotImplementedError

    def observe(self, gradient: Tensor) -> None:
        """Look at the gradient of the change, in the backward pass; by default do nothing."""

    def forward(self, base: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return ``base(x) + change x`` in the dtype of the layer."""
        output: Tensor = base(x, *args, **kwargs)
        added: Tensor = _Changed.apply(self, x, *self.learned())  # type: ignore[no-untyped-call]
        return output + added.to(output.dtype)

    def merged(
        self, base: nn.Module, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the weight with the change added."""
        change = self.change(*self.learned())
        return weight + change.to(weight.dtype), bias


def weight_of(layer: nn.Module) -> Tensor:
    """Return a layer's weight without a gradient; ``out x in`` for every linear layer."""
    weight: Any = layer.weight
    plain: Tensor = weight.detach()
    return plain.T if isinstance(layer, Conv1D) else plain


def shape_of(layer: nn.Module) -> tuple[int, ...]:
    """Return the shape of :func:`weight_of`, of a quantised layer what it stands for."""
    weight = weight_of(layer)
    if weight.ndim != 2:
        return tuple(weight.shape)
    in_features, out_features = widths_of(layer)
    return out_features, in_features


def start_device(layer: nn.Module) -> str:
    """Return where the start of a part is made: on the CPU, or nowhere for a layer of shapes.

    What is as large as a weight takes seconds to write for a large model.
    """
    return "meta" if weight_of(layer).is_meta else "cpu"


def applied(layer: nn.Module, x: Tensor, change: Tensor) -> Tensor:
    """Return what a layer with ``change`` as its weight, and no bias, makes of ``x``."""
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        convolved: Tensor = layer._conv_forward(x, change, None)
        return convolved
    return functional.linear(x, change)


class _Changed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: WeightPart, x: Tensor, *learned: Tensor) -> Tensor:
        ctx.part = part
        ctx.save_for_backward(x, *learned)
        return applied(part.__dict__["layer"], x, _in_full(part, x, learned).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        part: WeightPart = ctx.part
        layer: nn.Module = part.__dict__["layer"]
        x, *learned = ctx.saved_tensors
        with torch.enable_grad():
            leaves = [tensor.detach().requires_grad_() for tensor in learned]
            change = _in_full(part, x, leaves)
        plain = change.detach().to(gradient.dtype)
        of_x, of_change = _gradients(layer, x, plain, gradient, needs_x=ctx.needs_input_grad[1])
        of_change = of_change.to(change.dtype)
        part.observe(of_change)
        of_learned = torch.autograd.grad(change, leaves, of_change)
        return (None, of_x, *of_learned)


def _in_full(part: WeightPart, x: Tensor, learned: Sequence[Tensor]) -> Tensor:
    """Return the change in the precision of what trains, also under autocast."""
    # A model of shapes alone computes on the CPU's behalf, and has no autocast of its own.
    with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
        return part.change(*learned)


def _gradients(
    layer: nn.Module, x: Tensor, change: Tensor, gradient: Tensor, *, needs_x: bool
) -> tuple[Tensor | None, Tensor]:
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        with torch.enable_grad():
            inputs = [x.detach().to(gradient.dtype).requires_grad_(), change.requires_grad_()]
            output = applied(layer, *inputs)
        pixels, kernel = torch.autograd.grad(output, inputs, gradient)
        return pixels.to(x.dtype), kernel
    of_x = (gradient @ change).to(x.dtype) if needs_x else None
    rows = gradient.reshape(-1, gradient.shape[-1])
    of_change = rows.T @ x.reshape(-1, x.shape[-1]).to(gradient.dtype)
    return of_x, of_change
