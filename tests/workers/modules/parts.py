"""Parts of our methods on single layers in float64, where equations can be checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from autopeft.workers.modules._framework import MethodConfig

IN, OUT = 12, 8


@contextmanager
def drawn_with(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def layer_of(kind: str = "linear") -> Any:
    """Return a frozen layer with weights of order one, 12 features in and 8 out."""
    with drawn_with(0):
        layers: dict[str, nn.Module] = {
            "linear": nn.Linear(IN, OUT),
            "conv1d": Conv1D(OUT, IN),
            "convolution": nn.Conv2d(3, OUT, kernel_size=(2, 3), stride=2),
            "norm": nn.LayerNorm(IN),
        }
        layer = layers[kind].double()
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
    return layer.requires_grad_(False)


def part_of(
    part_class: Any, layer: Any, config: MethodConfig, *, pool: Any = None, drawn: bool = True
) -> Any:
    """Return a part in float64; what trains is drawn anew unless told otherwise."""
    with drawn_with(1):
        part = part_class(layer, config, "some.layer", {} if pool is None else pool).double()
        for parameter in part.parameters() if drawn else ():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return part


def inputs(*size: int) -> torch.Tensor:
    with drawn_with(2):
        return torch.randn(*size, dtype=torch.float64, requires_grad=True)


def close(one: torch.Tensor, other: torch.Tensor, tolerance: float = 1e-12) -> bool:
    return torch.allclose(one, other, rtol=0, atol=tolerance)
