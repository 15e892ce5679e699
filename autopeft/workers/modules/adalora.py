"""AdaLoRA's pruning: ranks go to the matrices where they matter (Zhang et al. 2023).

After each step the triplets (a column of B, a value of E, a row of A) are ranked by their
importance over the whole model, and the values of those beyond the budget are set to zero
(algorithm 1 of arXiv 2303.10512). The budget falls from the first rank to the one aimed at by
the cubic of equation 12, after a tenth of the steps and until a fifth is left.

A triplet's sensitivity is that of equation 6 and 8, the absolute product of weight and
gradient, averaged over A's row and B's column; importance is its moving average times that of
its deviation (equations 9 to 11). Deviations from the paper: the averages are kept for each
triplet, not for each entry, so that they fit into the adapter's file; the penalty that keeps
A and B orthogonal is not added to the loss.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.adalora.layer import AdaLoraLayer

SMOOTHING = 0.85
WARM_UP = 0.1
FINAL = 0.2


def prepare(model: Any, adapter: str) -> None:
    """Give each layer the two moving averages, under names that PEFT saves."""
    for layer in _layers(model, adapter):
        values = layer.lora_E[adapter]
        for name in ("lora_importance", "lora_uncertainty"):
            if not hasattr(layer, name):
                setattr(layer, name, BufferDict(persistent=True))
            getattr(layer, name)[adapter] = torch.zeros(len(values), device=values.device)


def on_step(model: Any, step: int, num_steps: int) -> None:
    """Update the importance of every triplet and prune to the budget."""
    for adapter in _adapters(model):
        layers = _layers(model, adapter)
        scores = torch.cat([_update(layer, adapter) for layer in layers])
        target = model_target(model, adapter) * len(layers)
        budget = _budget(step, num_steps, len(scores), target)
        if budget >= len(scores):
            continue
        kept = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
        kept[scores.topk(budget).indices] = True
        sizes = [len(layer.lora_E[adapter]) for layer in layers]
        for layer, mask in zip(layers, torch.split(kept, sizes), strict=True):
            layer.lora_E[adapter].data.masked_fill_(~mask[:, None], 0.0)


def model_target(model: Any, adapter: str) -> int:
    """Return the mean rank aimed at."""
    for module in model.modules():
        config = getattr(module, "peft_config", None)
        if isinstance(config, dict) and adapter in config:
            return int(config[adapter].target_r)
    raise KeyError(adapter)


def _budget(step: int, num_steps: int, first: int, target: int) -> int:
    """Return how many triplets may live after a step (equation 12)."""
    start, end = WARM_UP * num_steps, (1.0 - FINAL) * num_steps
    if step <= start:
        return first
    if step >= end:
        return target
    return target + round((first - target) * (1.0 - (step - start) / (end - start)) ** 3)


@torch.no_grad()
def _update(layer: Any, adapter: str) -> torch.Tensor:
    """Return the importance of each triplet of a layer, this step's gradients included."""
    parts = {name: getattr(layer, f"lora_{name}")[adapter] for name in "EAB"}
    sensitivity = {
        name: torch.zeros_like(p) if p.grad is None else (p * p.grad).abs()
        for name, p in parts.items()
    }
    score = sensitivity["E"][:, 0] + sensitivity["A"].mean(1) + sensitivity["B"].mean(0)
    importance = layer.lora_importance[adapter]
    uncertainty = layer.lora_uncertainty[adapter]
    importance.mul_(SMOOTHING).add_(score, alpha=1.0 - SMOOTHING)
    uncertainty.mul_(SMOOTHING).add_((score - importance).abs(), alpha=1.0 - SMOOTHING)
    ranked: torch.Tensor = importance * uncertainty
    return ranked


def _adapters(model: Any) -> list[str]:
    found = (m for m in model.modules() if isinstance(m, AdaLoraLayer))
    return sorted({adapter for layer in found for adapter in layer.lora_E})


def _layers(model: Any, adapter: str) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, AdaLoraLayer) and adapter in m.lora_E]
