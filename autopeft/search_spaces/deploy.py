"""Where a trained adapter is to run, and what that rules out.

- ``merged``: inside the base weights, which then have no trace of the adapter. Several methods
  on one layer do not merge exactly in general (DoRA reads the norm of the weight below it, which
  the other one changes), so it is one method a configuration.
- ``peft``: as PEFT loads and serves it: one adapter of one of PEFT's own types.
- ``vllm``: as vLLM's loader takes it: one LoRA for each linear layer of a causal language model.

What vLLM takes is read from its source, releases 0.22 to 0.27: ``vllm/config/lora.py``
(``MaxLoRARanks``), ``vllm/lora/peft_helper.py`` (refuses ``use_dora``, ``modules_to_save`` and
any ``bias`` but ``none``; ``use_rslora`` is fine), ``vllm/lora/lora_model.py`` (target modules
must be linear layers it serves). GPT-2, whose layers are ``Conv1D``, is no model it serves with
LoRA, and which routers it adapts differs between models: both are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.domains import domain_of
from autopeft.search_spaces.method import Deploy, Dimension, Method, get_method
from autopeft.search_spaces.targets import NOT_IN_ALL_LINEAR

DEPLOYS: tuple[Deploy, ...] = get_args(Deploy)
#: What ``max_lora_rank`` of a vLLM server may be; a rank that is one of them wastes nothing.
VLLM_MAX_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def vllm_lora_values(shape: ModelShape) -> Mapping[str, tuple[Any, ...]]:
    """Return the settings of a LoRA that vLLM loads on a model.

    Raises:
        ValueError: it loads none for such a model and task, and why.
    """
    if shape.task != "causal-lm" or shape.head_paths:
        raise ValueError(f"vLLM serves an adapter without a task head, not for {shape.task}")
    odd = sorted({site.kind for site in shape.sites} - {"linear"})
    if odd:
        raise ValueError(f"vLLM takes LoRA on linear layers, {shape.model_type} has {odd[0]}")
    sites = tuple(name for name in shape.site_names if name not in NOT_IN_ALL_LINEAR)
    return {"rank": VLLM_MAX_RANKS, "dora": (False,), "sites": sites}


def deployable(
    method: Method, shape: ModelShape, deploy: Deploy
) -> tuple[tuple[Dimension, ...], list[str]]:
    """Return the dimensions of a method with the values that can run so, and what was cut.

    Raises:
        ValueError: no module of the method can, and why.
    """
    allowed = dict(method.deploy_values(shape, deploy))
    if deploy == "merged":
        _check_whole(shape)
        allowed = _merging(method, shape, allowed)
    dimensions, cut = [], []
    for dimension in method.dimensions(shape):
        kept = dimension.values
        if dimension.name in allowed:
            kept = tuple(value for value in dimension.values if value in allowed[dimension.name])
        if not kept:
            raise ValueError(f"no value of its {dimension.name} can be deployed as {deploy}")
        if kept != dimension.values:
            cut.append(f"{dimension.name} only {', '.join(map(_text, kept))}")
            dimension = _restricted(dimension, kept)
        dimensions.append(dimension)
    return tuple(dimensions), cut


def check_deployable(module: Module, shape: ModelShape, deploy: str | None) -> None:
    """Make sure that one module can run so; None stands for anywhere.

    Raises:
        ValueError: it cannot, and why.
    """
    if deploy not in DEPLOYS:
        return
    method = get_method(module.method)
    if deploy == "merged":
        _check_whole(shape)
    target = next(each for each in DEPLOYS if each == deploy)
    for name, allowed in method.deploy_values(shape, target).items():
        value = module.as_dict().get(name)
        if not set(value if isinstance(value, tuple) else (value,)) <= set(allowed):
            listed = ", ".join(map(_text, allowed))
            raise ValueError(f"deploy: {deploy} takes a {name} of {listed}, it has {value}")
    if deploy == "merged" and not method.can_merge(shape, module):
        raise ValueError("it cannot be merged into the base weights")


def _check_whole(shape: ModelShape) -> None:
    if shape.quantization is not None:
        raise ValueError(
            f"the base is stored in {shape.quantization}, to which a merged weight would be "
            "rounded; leave model.quantization or deploy out"
        )


def _merging(
    method: Method, shape: ModelShape, allowed: Mapping[str, tuple[Any, ...]]
) -> dict[str, tuple[Any, ...]]:
    """Leave out each value with which a module of otherwise default settings does not merge."""
    everywhere = tuple(range(shape.num_layers))
    # Sites first: a default that holds one that does not merge would rule out all the rest.
    dimensions = sorted(method.dimensions(shape), key=lambda each: each.kind != "subset")
    settings = {each.name: domain_of(each).default for each in dimensions}
    found = dict(allowed)
    for dimension in dimensions:
        kept = []
        for value in found.get(dimension.name, dimension.values):
            changed = (value,) if dimension.kind == "subset" else value
            module = Module.of(method.name, everywhere, **{**settings, dimension.name: changed})
            if method.can_merge(shape, module):
                kept.append(value)
        found[dimension.name] = tuple(kept)
        if kept and dimension.kind == "subset":
            settings[dimension.name] = tuple(kept)
        elif kept and settings[dimension.name] not in kept:
            settings[dimension.name] = kept[0]
    return found


def _restricted(dimension: Dimension, kept: tuple[Any, ...]) -> Dimension:
    default = dimension.default
    if dimension.kind == "subset":
        assert isinstance(default, tuple)
        default = tuple(value for value in default if value in kept) or kept
    elif default not in kept:
        default = kept[len(kept) // 2]
    return Dimension(
        name=dimension.name,
        kind=dimension.kind,
        values=kept,
        default=default,
        help=dimension.help,
    )


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
