"""Build a model on the meta device and describe all of it that a search space needs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from autopeft.errors import ModelError
from autopeft.records import ModelShape, SiteShape
from autopeft.workers.heads import head_paths, lacking_modules
from autopeft.workers.model_sources import ModelSource
from autopeft.workers.models import auto_class, auto_class_name, quiet_transformers
from autopeft.workers.shapes.sites import (
    input_embedding,
    layered_sites,
    matching_paths,
    name_by_hand,
    outer_sites,
)
from autopeft.workers.shapes.stacks import Stack, find_stacks, linear_paths, stacks_along
from autopeft.workers.shapes.tracing import trace

DEFAULT_TASK = "classification"
_GROUP_OF_KIND = {
    "linear": "sites",
    "conv1d": "sites",
    "norm": "norms",
    "embedding": "embeddings",
    "block": "blocks",
    "convolution": "convolutions",
    "parameter": "parameters",
}


def model_shape(source: ModelSource, config: Any, task: str = DEFAULT_TASK) -> ModelShape:
    """Return the shape of a model with the head of a task.

    Args:
        source: Where the model comes from; gives the public name, what the job file says of
            its sites, and the checkpoint's own account of what it holds.
        config: What ``models.load_config`` returned.
        task: Name of the task.

    Raises:
        ModelError: the layers or the head are not understood.
    """
    return shape_from_config(
        config,
        source.public_name,
        task,
        sites=dict(source.sites),
        quantization=source.quantization,
        source=source if source.has_weights else None,
    )


def meta_model(config: Any, task: str = DEFAULT_TASK) -> Any:
    """Build the model with a task's head on the meta device: shapes without memory.

    Raises:
        ModelError: transformers has no such model for this architecture.
    """
    name = config._name_or_path
    try:
        with torch.device("meta"), quiet_transformers():
            model = auto_class(task).from_config(config)
    except (ValueError, TypeError, AttributeError, KeyError, ImportError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{name} cannot be built for {task}: {reason}",
            hint=f"choose a model that transformers offers as {auto_class_name(task)}",
        ) from error
    return model.eval()


def shape_from_config(
    config: Any,
    name: str,
    task: str = DEFAULT_TASK,
    *,
    sites: Mapping[str, str] | None = None,
    quantization: str | None = None,
    source: ModelSource | None = None,
) -> ModelShape:
    """Return the shape of the model that a transformers config describes.

    Which layer is what follows from a traced forward pass (``shapes.tracing``), so any model
    whose attention is a product, a softmax and a product is understood, whatever its modules
    are called. What methods may rely on:

    * Every site with ``{layer}`` stands in one of ``stacks``; a linear site is an ``nn.Linear``
      or a ``Conv1D`` that ran in the traced pass. Mamba's ``mixer_dt`` and
      ``mixer_convolution`` are exceptions: the model reads their weights without calling them
      (and, with its own CUDA kernels, those of ``mixer_x`` and ``mixer_out`` in training).
    * A name stands for one module of a layer; what a layer has twice is named once.
    * A block begins with the module whose first input is the block's input (the first of q,
      k, v; the gate or the inner layer of the feed-forward) and ends with the one whose output
      is added to the residual stream, dropout and a second normalisation aside. The input is
      normalised already where the layer normalises before its blocks. In a mixture of experts
      both ends of ``ffn_block`` are the module around router and experts.
    * ``attention_norm`` and ``ffn_norm`` stand before their blocks or after them, as the model
      has it; ``post_*`` are the second ones of models that have both.
    * A ``router`` that is no linear module, and ``experts_*``, are parameters: their paths name
      a tensor, and ``kernel_size`` holds the extents before its matrix (the experts).
    * A tensor that stands in several places (tied embeddings) is named once.

    Args:
        config: With ``num_labels`` set.
        name: Public name of the model.
        task: Name of the task.
        sites: Sites that a person named: for each the end of a module path, or a regular
            expression for the whole of it. They replace what was found.
        quantization: How the frozen weights will be stored.
        source: Where the checkpoint can be asked what it holds.

    Raises:
        ModelError: no layers, or no linear layer in them, whose purpose is understood.
    """
    model = meta_model(config, task)
    seen = trace(model)
    stacks = find_stacks(model, seen)
    if sites and not stacks:
        found = matching_paths(model, sites)
        stacks = stacks_along(model, [path for paths in found.values() for path in paths])
    hidden_size = _hidden_size(model, stacks)
    by_hand = name_by_hand(model, stacks, sites or {}, hidden_size)
    head = head_paths(model, lacking_modules(model, source))
    layered = layered_sites(model, stacks, hidden_size)
    if not any(site.kind in ("linear", "conv1d") for site in layered):
        raise _not_understood(model, name, stacks)
    outer = [*outer_sites(model, stacks, seen, head, hidden_size), *by_hand]
    groups: dict[str, Any] = {
        group: tuple(s for s in (*layered, *outer) if _GROUP_OF_KIND[s.kind] == group)
        for group in dict.fromkeys(_GROUP_OF_KIND.values())
    }
    head_parameters = {
        id(p): p.numel() for path in head for p in model.get_submodule(path).parameters()
    }
    num_head = sum(head_parameters.values())
    embedding = input_embedding(model)
    heads = _attention_heads(_config_of(model, stacks), layered)
    return ModelShape(
        name=name,
        model_type=str(config.model_type),
        num_layers=sum(len(stack.layers) for stack in stacks),
        hidden_size=hidden_size,
        num_attention_heads=heads[0],
        num_key_value_heads=heads[1],
        head_size=heads[2],
        num_base_parameters=sum(p.numel() for p in model.parameters()) - num_head,
        num_head_parameters=num_head,
        head_paths=head,
        task=task,
        stacks=tuple((stack.name, len(stack.layers)) for stack in stacks),
        vocab_size=embedding.num_embeddings if isinstance(embedding, nn.Embedding) else 0,
        has_tied_embeddings=_is_tied(model),
        forward_arguments=_forward_arguments(model),
        uses_attention_interface=_uses_attention_interface(model, layered),
        quantization=quantization,
        **groups,
    )


def _not_understood(model: nn.Module, name: str, stacks: Sequence[Stack]) -> ModelError:
    where = ", ".join(stack.path for stack in stacks) or "none"
    return ModelError(
        f"the layers of {name} ({type(model).__name__}) are not understood: looked for lists of "
        "modules that each hold an attention (linear layers for q, k, v or qkv, and "
        "attention_output) or a state-space mixer (mixer_in, mixer_out), beside a feed-forward "
        f"(ffn_in or ffn_gate_in, ffn_gate, ffn_out); found {where}. "
        f"Its linear layers are {', '.join(linear_paths(model)) or 'none'}",
        hint="name them in the job file by the end of their paths, such as "
        "model: {name: ..., sites: {q: attention.wq, v: attention.wv, ffn_out: mlp.w2}}",
    )


def _config_of(model: Any, stacks: Sequence[Stack]) -> Any:
    """Return the config of the innermost model that holds the first stack."""
    found = model.config
    path = stacks[0].path if stacks else ""
    for prefix, module in model.named_modules():
        if path.startswith(f"{prefix}.") and hasattr(module, "config"):
            found = module.config
    return found


def _hidden_size(model: Any, stacks: Sequence[Stack]) -> int:
    config = _config_of(model, stacks)
    for candidate in (config, model.config, model.config.get_text_config()):
        if isinstance(size := getattr(candidate, "hidden_size", None), int):
            return size
    return 0


def _attention_heads(config: Any, sites: Sequence[SiteShape]) -> tuple[int, int, int]:
    """Return query heads, key-value heads and the width of a head; zeros without attention."""
    by_name = {site.site: site for site in reversed(sites)}
    output = by_name.get("attention_output")
    num_heads = getattr(config, "num_attention_heads", None)
    if not isinstance(num_heads, int) or (output is None and "q" not in by_name):
        return 0, 0, 0
    width = by_name["q"].out_features if output is None else output.in_features
    head_size = width // num_heads
    if "k" in by_name:
        num_key_value = by_name["k"].out_features // head_size
    else:
        num_key_value = getattr(config, "num_key_value_heads", None) or num_heads
    return num_heads, int(num_key_value), head_size


def _is_tied(model: Any) -> bool:
    outputs, inputs = model.get_output_embeddings(), input_embedding(model)
    return outputs is not None and outputs.weight is getattr(inputs, "weight", None)


def _forward_arguments(model: nn.Module) -> tuple[str, ...]:
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(model.forward).parameters.values()
    return tuple(p.name for p in parameters if p.kind not in kinds)


def _uses_attention_interface(model: Any, sites: Sequence[SiteShape]) -> bool:
    """Tell whether the model looks its attention function up by name at every call."""
    if not any(site.site in ("q", "qkv") for site in sites):
        return False
    can_set = getattr(type(model), "_can_set_attn_implementation", None)
    return bool(can_set is not None and can_set())
