"""A running average of the trained weights, over about the last part of the steps done.

Averaging the weights of a constant learning rate does much of what letting it fall does (Sandler
et al. 2023, arXiv 2303.14177; Hägele et al. 2024, arXiv 2405.18392), and costs a copy of the
adapter. The weights of step ``i`` count as about ``i ** exponent``: polynomial-decay averaging
(Shamir and Zhang 2013, arXiv 1212.1824, section 4), also known as a power function moving average
(Karras et al. 2024, arXiv 2312.02696). Unlike an exponential moving average, whose memory is a
number of steps, it spans the same part of a short trial as of a long one, so that early and late
scores are of the same kind, and it needs no correction at the start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from autopeft.workers.adapter_tensors import trainable_parameters
from autopeft.workers.settings import TrainingSettings


class TailAverage:
    """The average of what trains in one model.

    Args:
        model: Injected model; its parameters that train are averaged.
        window: About the part of the steps done that is averaged, in (0, 1]: the average is as
            old as the mean of the last ``window`` of all steps; 1 is the mean of them all.
    """

    def __init__(self, model: Any, window: float) -> None:
        self._parameters = trainable_parameters(model)
        self._exponent = 2.0 / window - 2.0
        #: The average by the name of the parameter, in the parameter's own type and place.
        self.tensors: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step.

        ``average += (exponent + 1) / (step + exponent) * (weights - average)``, section 4 of
        arXiv 1212.1824. The average of a weight that is exactly 0 begins anew: it was pruned, or
        stands for another place from now on.

        Args:
            step: Optimiser steps done, from 1 on.
        """
        if not self.tensors:
            self.tensors = {name: p.detach().clone() for name, p in self._parameters.items()}
            return
        weight = (1.0 + self._exponent) / (step + self._exponent)
        for name, parameter in self._parameters.items():
            self.tensors[name].lerp_(parameter, weight).masked_fill_(parameter == 0, 0.0)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from an average that was stored.

        Raises:
            ValueError: it is of other parameters.
        """
        if odd := sorted(tensors.keys() ^ self._parameters.keys())[:3]:
            raise ValueError(f"an average of other parameters, for example {', '.join(odd)}")
        self.tensors = {
            name: tensors[name].to(parameter.device, copy=True)
            for name, parameter in self._parameters.items()
        }

    @torch.no_grad()
    def put_in_place(self) -> None:
        """Write the average into the model."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self.tensors[name])


def average_of(model: Any, settings: TrainingSettings) -> TailAverage | None:
    """Return the average that settings ask for, of nothing yet; None where they ask for none."""
    return TailAverage(model, settings.averaging_window) if settings.averaging == "tail" else None
