"""Merge all methods of a model into its weights, however they are nested."""

from __future__ import annotations

from typing import Any

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn

from autopeft.workers.modules._blocks import ChildLayer


def merge_parts(model: Any) -> Any:
    """Return the transformers model with every method merged and every wrapper gone.

    PEFT merges the outermost adapter of a layer and drops those below it. Here each layer's
    adapters are merged from the inside out, so that each finds the weights that it saw in
    training. Weights are copied before they are written to: the frozen base may share them
    with other models.

    Args:
        model: Injected model; it is used up.

    Raises:
        ValueError: a method acts between layers or on the input and cannot be merged, or the
            merged weights are not finite.
    """
    if isinstance(model, PeftModel):
        if model.active_peft_config.is_prompt_learning:
            raise ValueError("learned prompts cannot be merged into the weights")
        model = model.get_base_model()
    modules = list(model.named_modules())
    for path, module in modules:
        if isinstance(module, ChildLayer):
            raise ValueError(f"what stands at {path} acts between layers and cannot be merged")
    for path, module in modules:
        if isinstance(module, ModulesToSaveWrapper):
            (merged,) = module.modules_to_save.values()
        elif not isinstance(module, BaseTunerLayer):
            continue
        elif any(f".{part}" in f".{path}" for part in ("base_layer", "modules_to_save")):
            continue  # inside another one, which comes first and is merged with it
        else:
            merged = _merge_layer(module)
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, merged)
    if hasattr(model, "peft_config"):
        del model.peft_config
    return model


def _merge_layer(layer: Any) -> nn.Module:
    """Return the innermost layer with the adapters around it merged."""
    around = [layer]
    while isinstance(around[-1].base_layer, BaseTunerLayer):
        around.append(around[-1].base_layer)
    base: nn.Module = around[-1].base_layer
    for name, parameter in list(base.named_parameters(recurse=False)):
        copied = parameter.detach().clone()
        setattr(base, name, nn.Parameter(copied, requires_grad=parameter.requires_grad))
    for adapter in reversed(around):
        adapter.merge(safe_merge=True)
    return base
