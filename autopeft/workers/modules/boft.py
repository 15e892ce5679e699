"""BOFT without its CUDA extension, which PEFT would try to compile for every layer it makes.

With one butterfly factor, all that is offered, the extension computes what PyTorch does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from peft.tuners.boft import layer
from peft.tuners.boft.layer import BOFTLayer

layer._FBD_CUDA = False


@contextmanager
def on_meta() -> Iterator[None]:
    """Build layers whose permutations have a shape and no numbers; filling one in takes long."""

    def matrix(_: Any, indices: torch.Tensor) -> torch.Tensor:
        return torch.empty(len(indices), len(indices))

    with torch.device("meta"), mock.patch.object(BOFTLayer, "perm2mat", matrix):
        yield


def prepare(model: Any, adapter: str) -> None:
    """Leave permutations on the host where training runs on CUDA, as PEFT does.

    A copy in the inputs' type is made in every forward pass and kept for the backward pass.
    """
    if not any(getattr(each, "trains_on", "") == "cuda" for each in model.modules()):
        return
    for each in model.modules():
        if isinstance(each, BOFTLayer) and adapter in each.boft_R and each.boft_P.is_meta:
            each.boft_P = torch.zeros(()).expand(each.boft_P.shape)
