"""Layers that train in full: normalisations, the last layers, a drawn half.

What trains is a difference to the frozen weight that starts at zero. The frozen weights are shared
by every trial and stay as they are; the difference composes with what other methods do to the
same layer, and weight decay pulls towards the pretrained weights. Its price is a second product
in each linear layer.

* ``norms``: Zhao et al. 2023, arXiv 2312.11420, section 3.
* ``last-layers``: Lee, Tang and Lin 2019, arXiv 1911.03090, section 3.
* ``half``: Hui et al. 2024, arXiv 2404.18466, section 3; its declaration draws the half.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from autopeft.workers.modules._framework import MethodConfig, register_method
from autopeft.workers.modules._layers import Part, Pool, substituted
from autopeft.workers.modules._weights import applied, shape_of

Tensor = torch.Tensor


@dataclass
class NormsConfig(MethodConfig):
    """Config of training normalisations."""

    train_bias: bool = field(default=True, metadata={"help": "Whether biases train too."})


@dataclass
class LastLayersConfig(MethodConfig):
    """Config of training the last layers in full.

    Attributes:
        stacked: Names of the parameters that train of modules that are no layers of their own,
            such as a mixture's experts.
    """

    stacked: list[str] = field(default_factory=list, metadata={"help": "Stacked parameters."})


@dataclass
class HalfConfig(MethodConfig):
    """Config of half fine-tuning; the target names the half."""


class FullPart(Part):
    """Differences to the weight and the bias of a linear layer, or another layer's parameters."""

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(self, base: nn.Module, config: MethodConfig, path: str, pool: Pool) -> None:
        super().__init__()
        self.__dict__["layer"] = base
        self.is_linear = isinstance(base, nn.Linear | Conv1D)
        for name, parameter in base.named_parameters(recurse=False):
            is_vector = name == "bias" and getattr(config, "train_bias", True)
            if name == "weight" or is_vector or name in getattr(config, "stacked", ()):
                size = shape_of(base) if self.is_linear and name == "weight" else parameter.shape
                zeros = torch.zeros(size, device=parameter.device if parameter.is_meta else "cpu")
                self.register_parameter(name, nn.Parameter(zeros))

    def forward(self, base: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return the layer's output under the sums of old weights and differences."""
        layer = self.__dict__["layer"]
        if not self.is_linear:
            # Read now and not at the start: another method may have put a sum in its place.
            old = {name: getattr(layer, name) for name, _ in self.named_parameters()}
            new = self.named_parameters()
            sums = {name: old[name] + change.to(old[name].dtype) for name, change in new}
            return substituted(base, sums, x, *args, **kwargs)
        output: Tensor = base(x, *args, **kwargs)
        added = applied(layer, x, self.weight.to(x.dtype))
        if "bias" in self._parameters:
            added = added + self.bias.to(added.dtype)
        return output + added.to(output.dtype)

    def merged(
        self, base: nn.Module, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias with their differences."""
        if bias is not None and "bias" in self._parameters:
            bias = bias + self.bias
        return weight + self.weight, bias


register_method("autopeft_norms", NormsConfig, FullPart)
register_method("autopeft_last_layers", LastLayersConfig, FullPart)
register_method("autopeft_half", HalfConfig, FullPart)
