"""WaveFT without weights: coefficients are placed by a mask, which needs its numbers."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from peft.tuners.waveft.layer import WaveFTLayer


def prepare(model: Any, adapter: str) -> None:
    """Give layers without numbers an update of the same shape, made of the same parameters."""
    for layer in model.modules():
        if not isinstance(layer, WaveFTLayer) or adapter not in layer.waveft_spectrum:
            continue
        if layer.waveft_spectrum[adapter].is_meta:
            layer.get_delta_weight = partial(_dense, layer)


def _dense(layer: Any, adapter: str) -> torch.Tensor:
    spectrum = layer.waveft_spectrum[adapter]
    size = layer.out_features * layer.in_features
    dense = torch.zeros(size - len(spectrum), dtype=spectrum.dtype, device=spectrum.device)
    whole = torch.cat([spectrum, dense]).view(layer.out_features, layer.in_features)
    return whole * float(layer.waveft_scaling[adapter])
