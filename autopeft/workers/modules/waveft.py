"""WaveFT without weights: coefficients are drawn, and placed by a mask, which needs its numbers."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from peft.tuners.waveft.constants import WAVELET_REDUCTIONS
from peft.tuners.waveft.layer import WaveFTLayer
from peft.tuners.waveft.waverec2d import waverec2d

from autopeft.workers.modules._shapes_only import NoPermutations


def on_meta() -> NoPermutations:
    """Build layers whose coefficients have a shape and no places."""
    return NoPermutations()


def prepare(model: Any, adapter: str) -> None:
    """Give layers without numbers an update that keeps the same tensors and asks for none."""
    for layer in model.modules():
        if not isinstance(layer, WaveFTLayer) or adapter not in layer.waveft_spectrum:
            continue
        if layer.waveft_spectrum[adapter].is_meta and layer.waveft_use_idwt[adapter]:
            layer.get_delta_weight = partial(_reconstructed, layer)


def _reconstructed(layer: Any, adapter: str) -> torch.Tensor:
    """Compute the update as PEFT does, every coefficient taken to lie within the matrix."""
    spectrum, family = layer.waveft_spectrum[adapter], layer.waveft_wavelet_family[adapter]
    sizes = [
        size + reduction + (size + reduction) % 2
        for size, reduction in zip(
            (layer.out_features, layer.in_features), WAVELET_REDUCTIONS[family], strict=True
        )
    ]
    dense = spectrum.new_zeros(sizes)
    places = layer.waveft_indices[adapter].clone()
    chosen: torch.Tensor = _Chosen.apply(spectrum)  # type: ignore[no-untyped-call]
    dense[places[0], places[1]] = chosen
    rows, columns = (size // 2 for size in sizes)
    upper, lower = dense[:rows], dense[rows:]
    bands = (upper[:, columns:], lower[:, :columns], lower[:, columns:])
    update: torch.Tensor = waverec2d((upper[:, :columns], bands), family)
    update = update * layer.waveft_scaling[adapter]
    top = (update.shape[0] - layer.out_features) // 2
    left = (update.shape[1] - layer.in_features) // 2
    return update[top : top + layer.out_features, left : left + layer.in_features]


class _Chosen(torch.autograd.Function):
    """``spectrum[mask]`` where the mask, which is kept, leaves nothing out."""

    @staticmethod
    def forward(ctx: Any, spectrum: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(torch.empty_like(spectrum, dtype=torch.bool))
        return torch.empty_like(spectrum)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(gradients[0])
