"""VB-LoRA without weights: it looks for infinite logits whenever it trains, which needs numbers."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.vblora.layer import VBLoRALayer


def prepare(model: Any, adapter: str) -> None:
    """Let layers without numbers skip the check; it is of no effect on shapes."""
    for layer in model.modules():
        if not isinstance(layer, VBLoRALayer) or adapter not in layer.vblora_logits_A:
            continue
        if layer.vblora_logits_A[adapter].is_meta:
            layer._get_lora_matrices = _Unchecked(layer)


class _Unchecked:
    """Compute the two matrices as in evaluation, where nothing is checked."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def __call__(
        self, adapter: str, cast_to_fp32: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        layer, was_training = self._layer, self._layer.training
        layer.training = False
        try:
            found = type(layer)._get_lora_matrices(layer, adapter, cast_to_fp32)
        finally:
            layer.training = was_training
        first, second = found
        return first, second
