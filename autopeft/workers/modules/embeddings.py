"""Embeddings and output layers that train in full, as differences that start at zero.

Artetxe et al. 2020, arXiv 1910.11856, section 3: the embeddings train, the body stays. The output
layer of a language model is found when the method is injected; where the model ties it to the
token embedding, both add the same trained matrix, as training the tied matrix would.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.nn import functional

from autopeft.workers.modules._framework import MethodConfig, MethodTuner, register_method
from autopeft.workers.modules._layers import Part, Pool
from autopeft.workers.modules._weights import start_device

Tensor = torch.Tensor


@dataclass
class EmbeddingsConfig(MethodConfig):
    """Config of training embeddings.

    Attributes:
        output: Whether the output layer of a language model trains too.
    """

    output: bool = field(default=False, metadata={"help": "Whether the output layer trains."})


@dataclass
class OutputConfig(MethodConfig):
    """Config of training the output layer of a language model alone."""


class Table(nn.Module):
    """A trained matrix of ``rows x width`` that starts at zero."""

    def __init__(self, rows: int, width: int, device: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, width, device=device))


class TablePart(Part):
    """A difference to the matrix of an embedding or of an output layer."""

    table: Table

    def __init__(self, base: nn.Module, config: MethodConfig, path: str, pool: Pool) -> None:
        super().__init__()
        weight: Any = base.weight
        self.is_embedding = isinstance(base, nn.Embedding)
        # Some embeddings multiply what they look up (Gemma).
        scale: Any = getattr(base, "scalar_embed_scale", getattr(base, "embed_scale", 1.0))
        self.scale = float(scale)
        # A tied output layer has the very parameter of the token embedding.
        rows, width = weight.shape
        device = start_device(base)
        self.share("table", pool, id(weight), lambda: Table(rows, width, device))

    def forward(self, base: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the rows, or the logits, of the sum of the old matrix and the difference."""
        output: Tensor = base(x, *args, **kwargs)
        if self.is_embedding:
            added = functional.embedding(x, self.table.weight) * self.scale
        else:
            added = functional.linear(x, self.table.weight.to(x.dtype))
        return output + added.to(output.dtype)

    def merged(
        self, base: nn.Module, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the matrix with its difference."""
        return weight + self.table.weight, bias


class TableTuner(MethodTuner):
    """Adapt more than the config names: the output layer, and every layer with the same matrix."""

    def _pre_injection_hook(self, model: nn.Module, config: Any, adapter_name: str) -> None:
        super()._pre_injection_hook(model, config, adapter_name)
        tables = dict(_embeddings(model))
        paths = [path for path in tables if re.fullmatch(config.target_modules or "", path)]
        matrices = {id(tables[path].weight) for path in paths}
        # Encoder and decoder may look up the same matrix in two layers.
        paths += [p for p, t in tables.items() if p not in paths and id(t.weight) in matrices]
        if getattr(config, "output", True):
            paths.append(_output_path(model))
        config.target_modules = "|".join(f"(?:{re.escape(path)})" for path in paths)


def _embeddings(model: nn.Module) -> Iterator[tuple[str, nn.Embedding]]:
    """Yield each embedding, also where adapters of other methods stand around it."""
    for path, module in model.named_modules():
        layer = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        if isinstance(layer, nn.Embedding) and "base_layer" not in path:
            yield path, layer


def _output_path(model: Any) -> str:
    layer = model.get_output_embeddings()
    if layer is None:
        raise ValueError(f"{type(model).__name__} has no output layer to train")
    path: str = next(path for path, module in model.named_modules() if module is layer)
    return path


register_method("autopeft_embeddings", EmbeddingsConfig, TablePart, tuner_class=TableTuner)
register_method("autopeft_output", OutputConfig, TablePart, tuner_class=TableTuner)
