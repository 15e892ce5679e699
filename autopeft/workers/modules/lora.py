"""LoRA on stacked experts where there are shapes and no numbers: memory is predicted that way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from peft.tuners.lora.layer import ParamWrapper
from torch import nn
from torch.nn.utils import parametrize


class _Folded(nn.Module):
    """``W + scaling * lhs @ rhs``, as PEFT folds it, without asking autocast for the meta device.

    Shapes: `experts x out x in` and factors `experts x out x rank`, `experts x rank x in`.
    """

    def __init__(self, lhs: torch.Tensor, rhs: torch.Tensor, scaling: float) -> None:
        super().__init__()
        self.lhs, self.rhs, self.scaling = lhs, rhs, scaling

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight that the experts compute with."""
        return torch.baddbmm(weight, self.lhs, self.rhs, alpha=self.scaling)


def prepare(model: Any, adapter: str) -> None:
    """Let the updates of stacked experts run on the meta device, where torch has no autocast."""
    for module in model.modules():
        is_stack = isinstance(module, ParamWrapper) and module.num_experts > 1
        if is_stack and adapter in module.lora_A and module.get_param().is_meta:
            module._activate_lora = MethodType(_activated, module)


@contextmanager
def _activated(wrapper: Any, active_adapters: list[str]) -> Iterator[None]:
    """Put the one active adapter onto the parameter inside a ``with`` block."""
    active = [name for name in active_adapters if name in wrapper.lora_A]
    if not active:
        yield
        return
    (adapter,) = active
    proxy = _Folded(*wrapper.get_delta_factors(adapter))
    parametrize.register_parametrization(wrapper.get_base_layer(), wrapper.parameter_name, proxy)
    try:
        with parametrize.cached():
            yield
    finally:
        wrapper._remove_parametrizations()
