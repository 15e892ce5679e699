"""SHiRA without weights: positions are looked up in a mask, which needs its numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from peft.tuners.shira.layer import ShiraLayer


@contextmanager
def on_meta() -> Iterator[None]:
    """Build layers whose positions have a shape and no numbers."""
    build = ShiraLayer.update_layer

    def update_layer(
        self: Any, adapter_name: str, mask: Any, r: int, *args: Any, **kwargs: Any
    ) -> None:
        build(self, adapter_name, None, r, *args, **kwargs)
        number = len(self.shira_weight[adapter_name])
        self.shira_indices[adapter_name] = torch.empty(2, number, dtype=torch.int, device="meta")

    with mock.patch.object(ShiraLayer, "update_layer", update_layer):
        yield


def prepare(model: Any, adapter: str) -> None:
    """Give layers without numbers an update of the same shape, made of the same parameters."""
    for layer in model.modules():
        if not isinstance(layer, ShiraLayer) or adapter not in layer.shira_weight:
            continue
        if layer.shira_weight[adapter].is_meta:
            layer.get_delta_weight = partial(_dense, layer)


def _dense(layer: Any, adapter: str) -> torch.Tensor:
    weight = layer.shira_weight[adapter]
    zeros = torch.zeros(layer.out_features * layer.in_features - len(weight), device="meta")
    return torch.cat([weight, zeros.to(weight.dtype)]).view(layer.out_features, layer.in_features)
