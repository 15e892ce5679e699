"""Tiny models of several families in 4 and 8 bits, loaded once each."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import torch

from autopeft.records import ModelShape
from autopeft.workers.models import load_config, load_model, resolve_model
from autopeft.workers.settings import ModelSettings
from autopeft.workers.shapes import model_shape
from autopeft.workers.training import autocast
from tests.methods import cases
from tests.workers import families

REASON = "the extra `quantization` is not installed"


@functools.cache
def loaded(folder: Path, family: str, bits: Any) -> tuple[Any, Any, ModelShape]:
    """Return the tiny model of a family in few bits, its config and its shape."""
    task = families.TASK_OF[family]
    place = folder / family
    if not place.is_dir():
        cases.base_of(family).save_pretrained(place)
    source = resolve_model(ModelSettings(name=str(place), quantization=bits), folder)
    config = load_config(source, 3 if task == "classification" else 0, None, task)
    shape = model_shape(source, config, task)
    shape = dataclasses.replace(shape, num_free_positions=families.POSITIONS - 6)
    return load_model(source, config, task=task), config, shape


def outputs(model: Any, family: str) -> torch.Tensor:
    """Return the logits in evaluation mode, computed as a worker does."""
    with autocast(model, "auto"):
        return cases.outputs(model, family).float()


def stored_bytes(model: Any) -> int:
    """Return the bytes of parameters, buffers and all that quantised layers keep, each once."""
    held = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        scales = getattr(getattr(module, "weight", None), "quant_state", None)
        if scales is not None:
            nested = scales.state2
            held += [scales.absmax, scales.code, scales.offset, nested.absmax, nested.code]
        for owner in (getattr(module, "weight", None), getattr(module, "state", None)):
            held += [getattr(owner, "CB", None), getattr(owner, "SCB", None)]
    storages = [tensor.data.untyped_storage() for tensor in held if tensor is not None]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
