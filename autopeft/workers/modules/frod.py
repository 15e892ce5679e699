"""FRoD without weights: its basis is computed on the CPU, where such weights cannot go.

What PEFT computes with sparse tensors, which the meta device does not have, is stood in for by
operations that keep and pass on tensors of the same sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.frod.layer import FrodLayer
from peft.tuners.frod.model import FrodModel, _category_from_key
from torch import nn
from torch.overrides import TorchFunctionMode


@contextmanager
def on_meta() -> Iterator[None]:
    """Let tensors without numbers stay where they are when they are asked onto the CPU."""
    with (
        _StayOnMeta(),
        mock.patch.object(FrodModel, "_init_frod_projections", _projections),
        mock.patch.object(FrodLayer, "_calculate_frod_u_and_lambda", _coefficients),
    ):
        yield


def _projections(tuner: Any, config: Any, adapter: str) -> None:
    """Give each category of layers a basis and places of its entries, in shape alone."""
    if not hasattr(tuner, "frod_V"):
        for name in ("frod_V", "frod_s_indices", "frod_s_size"):
            setattr(tuner, name, nn.ModuleDict())
    for path, module in tuner.model.named_modules():
        if not tuner._check_target_module_exists(config, path) or not hasattr(module, "weight"):
            continue
        category = _category_from_key(path)
        if category in tuner.frod_V and adapter in tuner.frod_V[category]:
            continue
        weight = module.weight
        width = weight.shape[0] if config.fan_in_fan_out else weight.shape[1]
        number = min(int(width * width * config.sparse_rate), width * (width - 1))
        if config.sparse_rate > 0 and width > 1:
            number = max(1, number)
        found = {
            "frod_V": torch.empty(width, width, dtype=weight.dtype, device="meta"),
            "frod_s_indices": torch.empty(2, number, dtype=torch.int64, device="meta"),
            "frod_s_size": torch.tensor([width, width]),
        }
        for name, tensor in found.items():
            projections = getattr(tuner, name)
            if category not in projections:
                projections[category] = BufferDict({}, persistent=config.save_projection)
            projections[category][adapter] = tensor


def _coefficients(layer: Any, basis: Any, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.empty_like(weight), torch.empty(weight.shape[1], device="meta")


class _StayOnMeta(TorchFunctionMode):
    """Answer ``cpu()`` and ``to(device="cpu")`` of a tensor without numbers by itself."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.cpu and args[0].is_meta:
            return args[0]
        if func is torch.Tensor.to and args[0].is_meta:
            if str(kwargs.get("device")) == "cpu":
                kwargs.pop("device")
            args = tuple(each for each in args if str(each) != "cpu")
            if len(args) == 1 and not kwargs:
                return args[0]
        return func(*args, **kwargs)


def prepare(model: Any, adapter: str) -> None:
    """Let layers without numbers do without sparse tensors."""
    for layer in model.modules():
        if not isinstance(layer, FrodLayer) or adapter not in layer.frod_lambda_l:
            continue
        if layer.frod_lambda_l[adapter].is_meta:
            layer._get_frod_tensors = partial(_tensors, layer)
            layer._sparse_activation_mm = partial(_product, layer, adapter)


def _tensors(
    layer: Any, adapter: str, *, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, ...]:
    """Return U, V, the values of S and the diagonal, in the type that is computed with."""
    parts = (
        layer.frod_U[adapter],
        layer.frod_V[adapter],
        layer.frod_lambda_s_values[adapter],
        layer.frod_lambda_l[adapter],
    )
    return tuple(part.to(dtype) for part in parts)


def _product(layer: Any, adapter: str, inputs: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return the product of ``rows x n`` inputs with the sparse ``n x n`` matrix."""
    indices = layer.frod_s_indices[adapter]
    if inputs.dtype in (torch.float16, torch.bfloat16):
        dense: torch.Tensor = _Dense.apply(values, indices, inputs.shape[1])  # type: ignore[no-untyped-call]
        return inputs @ dense.t()
    product: torch.Tensor = _SparseProduct.apply(values, indices, inputs)  # type: ignore[no-untyped-call]
    return product.t()


class _Dense(torch.autograd.Function):
    """``sparse_coo_tensor(indices, values).coalesce().to_dense()``.

    Each of the two sparse tensors is kept for the backward pass, the second with indices and
    values of its own.
    """

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, indices: torch.Tensor, n: int) -> torch.Tensor:
        ctx.save_for_backward(values, torch.empty_like(indices), torch.empty_like(values))
        return values.new_empty(n, n)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        values, _, _ = ctx.saved_tensors
        return torch.empty_like(values), None, None


class _SparseProduct(torch.autograd.Function):
    """``sparse.mm(sparse_coo_tensor(indices, values).coalesce(), inputs.t())``."""

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, indices: torch.Tensor, inputs: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(values, torch.empty_like(indices), torch.empty_like(values), inputs)
        added_to = inputs.new_zeros(inputs.shape[1], inputs.shape[0])
        return torch.empty_like(added_to)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        values, _, _, inputs = ctx.saved_tensors
        (gradient,) = gradients
        dense = gradient @ inputs  # the gradient of all entries, of which the sparse ones are taken
        taken = torch.empty_like(values)
        del dense
        of_inputs = torch.empty_like(gradient)
        return taken, None, of_inputs.t().contiguous()
