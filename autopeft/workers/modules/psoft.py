"""PSOFT without weights: on CUDA its directions are a view of all singular directions.

PEFT keeps the first rows of what ``torch.linalg.svd`` gives out. On CUDA these lie one after the
other in memory already, so that asking for contiguous ones copies nothing and the whole square
matrix stays; on the CPU they do not, and a copy of the rows is all that stays.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.psoft.layer import PsoftLayer


def prepare(model: Any, adapter: str) -> None:
    """Let layers without numbers keep all directions where the real ones would."""
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, PsoftLayer) and adapter in layer._psoft_A_cache
    ]
    is_on_cuda = any(getattr(each, "trains_on", "") == "cuda" for each in model.modules())
    for layer in layers:
        kept = layer._psoft_A_cache[adapter]
        if kept.is_meta and layer.psoft_svd[adapter] == "full":
            number = min(layer.in_features, layer.out_features) if is_on_cuda else len(kept)
            whole = torch.empty(number, layer.in_features, dtype=kept.dtype, device="meta")
            layer._psoft_A_cache[adapter] = whole[: len(kept)]
