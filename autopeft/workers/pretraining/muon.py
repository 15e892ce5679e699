"""Muon, the optimiser of the hidden matrices: momentum, orthogonalised.

K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), with Nesterov
momentum and five Newton-Schulz iterations; the update's size is matched to AdamW's and weights
decay as in "Muon is scalable for LLM training" (arXiv 2502.16982, equation 4). Unlike the
published code it iterates in float32, which every CPU multiplies quickly, and matrices of equal
shape go through together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

#: Of the quintic ``a x + b x^3 + c x^5`` whose iteration takes singular values close to 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS = 5
#: Root mean square of an AdamW update, in learning rates (arXiv 2502.16982, section 2.2).
ADAMW_RMS = 0.2


class Muon(torch.optim.Optimizer):
    """Muon over matrices; its state is one momentum buffer a matrix.

    Args:
        matrices: Two-dimensional parameters, every one with a gradient at each step.
        lr: Learning rate, of AdamW's size.
        momentum: Of the running mean of gradients.
        weight_decay: Decoupled, as in AdamW.
    """

    def __init__(
        self,
        matrices: Iterable[torch.nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(matrices, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix once."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.nn.Parameter]] = {}
            for parameter in group["params"]:
                by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                updates = [self._momentum(p, group["momentum"]) for p in parameters]
                size = ADAMW_RMS * math.sqrt(max(shape))
                for parameter, update in zip(
                    parameters, orthogonalised(torch.stack(updates)), strict=True
                ):
                    parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=-group["lr"] * size)

    def _momentum(self, parameter: torch.nn.Parameter, momentum: float) -> torch.Tensor:
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        buffer: torch.Tensor = state["momentum"]
        buffer.lerp_(gradient, 1.0 - momentum)
        return gradient.lerp(buffer, momentum)


def orthogonalised(matrices: torch.Tensor) -> torch.Tensor:
    """Return ``k x m x n`` matrices with their singular values brought close to 1."""
    a, b, c = COEFFICIENTS
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    result: torch.Tensor = x.mT if is_tall else x
    return result
