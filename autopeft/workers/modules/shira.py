"""SHiRA without weights: positions are drawn and looked up in a mask, which needs its numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from peft.tuners.shira.layer import ShiraLayer

from autopeft.workers.modules._shapes_only import NoPermutations


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

    stand_in = mock.patch.object(ShiraLayer, "update_layer", update_layer)
    with torch.device("meta"), NoPermutations(), stand_in:
        yield


def prepare(model: Any, adapter: str) -> None:
    """Give layers without numbers an update that keeps what the sparse one keeps."""
    for layer in model.modules():
        if not isinstance(layer, ShiraLayer) or adapter not in layer.shira_weight:
            continue
        if layer.shira_weight[adapter].is_meta:
            layer.get_delta_weight = partial(_sparse, layer)


def _sparse(layer: Any, adapter: str) -> torch.Tensor:
    values = layer.shira_weight[adapter] * layer.scaling[adapter]
    size = (layer.out_features, layer.in_features)
    update: torch.Tensor = _Sparse.apply(values, layer.shira_indices[adapter], size)  # type: ignore[no-untyped-call]
    return update


class _Sparse(torch.autograd.Function):
    """``sparse_coo_tensor(indices, values, size)``, to be added to a dense matrix in place.

    It keeps itself for the backward pass, its indices as 64-bit integers. The result has the
    sparse tensor's shape and takes no memory.
    """

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, indices: torch.Tensor, size: tuple[int, int]
    ) -> torch.Tensor:
        ctx.save_for_backward(values, indices.to(torch.int64))
        return values.new_zeros(()).expand(size)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        values, _ = ctx.saved_tensors
        return torch.empty_like(values), None, None
