"""The tensors of a configuration's adapter: listed under PEFT's keys, and filled again.

Checkpoints, exports and the verification of an export read and write them through here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict

from autopeft.workers.heads import trained_head

#: Name of the group of tensors that holds the task head of a configuration saved as parts.
HEAD = "head"
#: Name of the group of tensors that training goes on from and PEFT does not save, such as the
#: network that computes a prompt.
TRAINING = "training"
_PEFT_PREFIX = "base_model.model."
_NESTING = ".base_layer."
_PART_PREFIX = "part_"


def trainable_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """Return the parameters that train, by name, in the model's order."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def adapter_name(part: str) -> str:
    """Return PEFT's adapter name of a part; it is part of no key and no file."""
    return f"{_PART_PREFIX}{part}"


def adapter_tensors(model: Any, head_paths: Sequence[str]) -> dict[str, dict[str, torch.Tensor]]:
    """Return the tensors of an injected model's adapter, trained or not, under PEFT's keys.

    They are the live ones, so that writing into them writes into the model, save for those that
    PEFT computes when it saves (a prompt that a network generates) or derives from a seed
    (positions of a sparse update).

    Args:
        model: Injected model.
        head_paths: Paths of the task head in the base model.

    Returns:
        ``{"": {...}}`` for one plain PEFT adapter, head included; else one group for each part
        by method name, free of the nesting that repeated injection puts into the keys, and
        the group ``"head"``. A group ``"training"`` is added where something trains that PEFT
        does not save, under the names of the parameters.
    """
    if isinstance(model, PeftModel) and set(model.peft_config) == {"default"}:
        groups = {"": _plain_tensors(model, head_paths)}
    else:
        groups = _part_tensors(model, head_paths)
    covered = {_address(t) for group in groups.values() for t in group.values()}
    kept = {**trainable_parameters(model), **_prompt_state(model)}
    left = {name: each.data for name, each in kept.items() if _address(each) not in covered}
    return {**groups, TRAINING: left} if left else groups


def fill_adapter(
    model: Any, head_paths: Sequence[str], stored: Mapping[str, Mapping[str, torch.Tensor]]
) -> None:
    """Copy stored tensors, grouped as by :func:`adapter_tensors`, into an injected model.

    Raises:
        ValueError: they belong to another model or configuration.
    """
    live = adapter_tensors(model, head_paths)
    for group in sorted(live.keys() | stored.keys()):
        inside, outside = live.get(group, {}), stored.get(group, {})
        if inside.keys() != outside.keys():
            odd = sorted(inside.keys() ^ outside.keys())[:3]
            raise ValueError(f"other adapter tensors, for example {', '.join(odd)}")
        for key, tensor in inside.items():
            if tensor.shape != outside[key].shape:
                raise ValueError(
                    f"{key} has shape {tuple(outside[key].shape)}, expected {tuple(tensor.shape)}"
                )
            tensor.copy_(outside[key])


def _prompt_state(model: Any) -> dict[str, torch.Tensor]:
    """Return everything that prompts are computed from, trained or not."""
    encoders = getattr(model, "prompt_encoder", {})
    return {
        f"prompt_encoder.{adapter}.{name}": tensor
        for adapter in encoders
        for name, tensor in encoders[adapter].state_dict().items()
    }


def _plain_tensors(model: PeftModel, head_paths: Sequence[str]) -> dict[str, torch.Tensor]:
    config = model.peft_config["default"]
    with torch.no_grad():
        tensors = dict(get_peft_model_state_dict(model, save_embedding_layers=False))
    if config.is_prompt_learning:
        tensors |= _live_prompt(model, "default", tensors)
    if not hasattr(config, "modules_to_save"):
        base = model.get_base_model()
        for path in head_paths:
            for name, parameter in base.get_submodule(path).named_parameters():
                tensors[f"{_PEFT_PREFIX}{path}.{name}"] = parameter.data
    return tensors


def _live_prompt(
    model: PeftModel, adapter: str, tensors: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Replace the copies that PEFT makes of prompt tensors by the parameters themselves."""
    encoder = model.prompt_encoder[adapter]
    parameters = dict(encoder.named_parameters())
    live = {key: parameters[key].data for key in tensors if key in parameters}
    if set(parameters) - set(live) == {"embedding.weight"}:
        live["prompt_embeddings"] = encoder.embedding.weight.data
    return live


def _part_tensors(model: Any, head_paths: Sequence[str]) -> dict[str, dict[str, torch.Tensor]]:
    groups: dict[str, dict[str, torch.Tensor]] = {}
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    head = {
        f"{path}.{name}": parameter.data
        for path in head_paths
        for name, parameter in trained_head(base.get_submodule(path)).named_parameters()
    }
    for adapter in getattr(base, "peft_config", {}):
        tensors = get_peft_model_state_dict(base, adapter_name=adapter, save_embedding_layers=False)
        groups[adapter.removeprefix(_PART_PREFIX)] = {
            _PEFT_PREFIX + key: tensor for key, tensor in _unnested(tensors).items()
        }
    if isinstance(model, PeftModel):
        for adapter in model.prompt_encoder:
            with torch.no_grad():
                prompt = dict(
                    get_peft_model_state_dict(
                        model, adapter_name=adapter, save_embedding_layers=False
                    )
                )
            # The head has a group of its own.
            prompt = {key: prompt[key] for key in prompt if not key.startswith("base_model.")}
            groups[adapter.removeprefix(_PART_PREFIX)] = prompt | _live_prompt(
                model, adapter, prompt
            )
    groups[HEAD] = head
    return groups


def _unnested(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return one adapter's tensors under the keys that they have where it is the only one.

    Two parameters of one module (stacked experts) are nested even then, the later inside.
    """
    found: dict[str, torch.Tensor] = {}
    for key in sorted(tensors, key=lambda key: (key.count(_NESTING), key)):
        start, *rest = key.split(_NESTING)
        alone = ".".join((start, *rest))
        while alone in found:
            start += _NESTING.rstrip(".")
            alone = ".".join((start, *rest))
        found[alone] = tensors[key]
    return {key: found[key] for key in sorted(found)}


def _address(tensor: torch.Tensor) -> int:
    return tensor.data_ptr() if tensor.device.type != "meta" else 0
