"""FRoD without weights: its basis is computed on the CPU, where such weights cannot go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from peft.tuners.frod.layer import FrodLayer
from torch.overrides import TorchFunctionMode


@contextmanager
def on_meta() -> Iterator[None]:
    """Let tensors without numbers stay where they are when they are asked onto the CPU."""
    with (
        _StayOnMeta(),
        mock.patch("peft.tuners.frod.model._projection_from_weights", _basis),
        mock.patch.object(FrodLayer, "_calculate_frod_u_and_lambda", _coefficients),
    ):
        yield


def _coefficients(layer: Any, basis: Any, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.empty_like(weight), torch.empty(weight.shape[1], device="meta")


def _basis(matrices: list[torch.Tensor], regularization_alpha: float) -> torch.Tensor:
    width = matrices[0].shape[1]
    return torch.empty(width, width, device="meta")


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
    """Let layers without numbers do without the sparse product, which has no such kernel."""
    for layer in model.modules():
        if not isinstance(layer, FrodLayer) or adapter not in layer.frod_lambda_l:
            continue
        if layer.frod_lambda_l[adapter].is_meta:
            layer._get_frod_tensors = partial(_tensors, layer)
            layer._sparse_activation_mm = _scaled


def _tensors(layer: Any, adapter: str, **kwargs: Any) -> tuple[torch.Tensor, ...]:
    values = layer.frod_lambda_s_values[adapter]
    shared = (each.to("meta") for each in (layer.frod_U[adapter], layer.frod_V[adapter]))
    return (*shared, values, layer.frod_lambda_l[adapter])


def _scaled(inputs: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return inputs * values.sum()
