"""Find what is new in a model for a task: its head, and what its checkpoint lacks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft.utils import ModulesToSaveWrapper

from autopeft.records import ModelShape
from autopeft.workers.hub_access import is_hub_reachable
from autopeft.workers.model_sources import ModelSource
from autopeft.workers.seeds import derive_seed

#: Endings of module names that PEFT trains in full for classification.
PEFT_HEAD_NAMES = ("classifier", "score")
OTHER_HEAD_NAMES = ("classification_head", "qa_outputs", "projector")


def head_paths(model: torch.nn.Module, lacking: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the paths of the modules that are new for a task and train in full.

    These are the modules whose name ends in ``classifier`` or ``score``, as in
    ``PeftModelForSequenceClassification`` of PEFT 0.21, the heads of other names that
    transformers has, and ``lacking``; modules inside another one are left out. A language model
    has none: its output layer belongs to the base.

    Args:
        model: With the head of its task.
        lacking: Paths of further modules, as :func:`lacking_modules` returns them.
    """
    found: list[str] = []
    for path, _ in model.named_modules():
        is_head = path.endswith(PEFT_HEAD_NAMES) or path in OTHER_HEAD_NAMES or path in lacking
        if is_head and not is_below(path, found):
            found.append(path)
    return tuple(found)


def lacking_modules(model: Any, source: ModelSource | None) -> tuple[str, ...]:
    """Return paths of modules between base and classifier that the checkpoint does not hold.

    DeBERTa's pooler, for one, is in no published checkpoint, and RoBERTa's (which multiple
    choice uses) in few; ModernBERT's ``head`` comes with the checkpoints of its masked
    language model. Such modules would stay random, so they train with the head.

    Args:
        model: With the head of its task; on any device.
        source: Where the checkpoint is; where it is None or cannot be asked, a pooler outside
            the base model is taken to be missing and everything else to be there.
    """
    base = getattr(model, model.base_model_prefix, None)
    if not isinstance(base, torch.nn.Module):
        return ()
    prefix = model.base_model_prefix
    known = head_paths(model)
    candidates = [
        path
        for path, module in model.named_children()
        if path != prefix and any(True for _ in module.parameters())
    ]
    candidates = [path for path in candidates if not is_below(path, known)]
    if isinstance(getattr(base, "pooler", None), torch.nn.Module):
        candidates.append(f"{prefix}.pooler")
    if model.get_output_embeddings() is not None or not known or not candidates:
        return ()
    keys = None if source is None else checkpoint_keys(source)
    if keys is None:
        return tuple(path for path in candidates if path == "pooler")
    return tuple(path for path in candidates if not _holds(keys, path, model))


def _holds(keys: frozenset[str], path: str, model: torch.nn.Module) -> bool:
    """Tell whether a checkpoint has every parameter of a module, under the base's name or not."""
    short = path.rpartition(".")[2]
    wanted = [f"{short}.{name}" for name, _ in model.get_submodule(path).named_parameters()]
    return all(any(key == w or key.endswith(f".{w}") for key in keys) for w in wanted)


def checkpoint_keys(source: ModelSource) -> frozenset[str] | None:
    """Return the names of the tensors a checkpoint holds; None where that cannot be found out.

    Read from the headers alone: of a folder, of the hub's cache, or over the network.
    """
    from huggingface_hub import get_safetensors_metadata, try_to_load_from_cache

    if source.is_local:
        return _keys_of(Path(source.location))
    for name in ("model.safetensors.index.json", "model.safetensors"):
        cached = try_to_load_from_cache(source.location, name, revision=source.revision)
        if isinstance(cached, str):
            return _keys_of(Path(cached).parent)
    if not is_hub_reachable():
        return None
    try:
        metadata = get_safetensors_metadata(source.location, revision=source.revision)
    except Exception:  # no such file, a gated model, a network that breaks: loading will tell
        return None
    return frozenset(metadata.weight_map)


def _keys_of(folder: Path) -> frozenset[str] | None:
    from safetensors import SafetensorError, safe_open

    keys: set[str] = set()
    try:
        for path in sorted(folder.glob("*.safetensors.index.json")):
            keys |= json.loads(path.read_text(encoding="utf-8"))["weight_map"].keys()
        for path in () if keys else sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                keys |= set(file.keys())
    except (OSError, ValueError, KeyError, SafetensorError):
        return None
    return frozenset(keys)


def is_below(key: str, paths: Sequence[str]) -> bool:
    """Tell whether a module or parameter path is one of ``paths`` or inside one of them."""
    return any(key == path or key.startswith(f"{path}.") for path in paths)


def initialise_head(
    model: Any,
    shape: ModelShape,
    seed: int,
    initial_outputs: NDArray[np.float32] | None = None,
) -> None:
    """Draw the task head from the seed: normal weights, zero biases, normalisations at identity.

    The bias of the head's last layer starts at ``initial_outputs`` where they are given.

    The standard deviation is the config's ``initializer_range`` (0.02 where it has none), as in
    transformers. Numbers are drawn on the CPU, so that every device starts alike.
    """
    deviation = float(getattr(model.config, "initializer_range", None) or 0.02)
    generator = torch.Generator().manual_seed(derive_seed(seed, "head"))
    with torch.no_grad():
        for path in shape.head_paths:
            for module in model.get_submodule(path).modules():
                for name, parameter in module.named_parameters(recurse=False):
                    if name == "bias":
                        parameter.zero_()
                    elif isinstance(module, torch.nn.LayerNorm):
                        parameter.fill_(1.0)
                    else:
                        drawn = torch.randn(parameter.shape, generator=generator) * deviation
                        parameter.copy_(drawn)
        if initial_outputs is not None:
            biases = [
                parameter
                for path in shape.head_paths
                for name, parameter in model.get_submodule(path).named_parameters()
                if name.endswith("bias") and parameter.shape == initial_outputs.shape
            ]
            if biases:
                biases[-1].copy_(torch.from_numpy(initial_outputs))


def trained_head(module: torch.nn.Module) -> torch.nn.Module:
    """Return the copy of a head that trains, where PEFT keeps one beside the original."""
    if isinstance(module, ModulesToSaveWrapper):
        trained: torch.nn.Module
        (trained,) = module.modules_to_save.values()
        return trained
    return module
