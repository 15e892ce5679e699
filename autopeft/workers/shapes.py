"""What a search space needs to know of a model, found on the meta device: no weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from autopeft.errors import ModelError
from autopeft.records import ModelShape, SiteShape
from autopeft.workers.models import ModelSource, head_paths, quiet_transformers

#: Where each site may stand inside one transformer layer, by the end of its path. The first
#: name is BERT's (RoBERTa, ELECTRA and most encoders share it), then DistilBERT's, then
#: DeBERTa's. ``ffn_out`` is looked for after ``attention_output``, whose path it also ends.
SITE_ENDINGS: Mapping[str, tuple[str, ...]] = {
    "q": ("attention.self.query", "attention.q_lin", "attention.self.query_proj"),
    "k": ("attention.self.key", "attention.k_lin", "attention.self.key_proj"),
    "v": ("attention.self.value", "attention.v_lin", "attention.self.value_proj"),
    "attention_output": ("attention.output.dense", "attention.out_lin"),
    "ffn_in": ("intermediate.dense", "ffn.lin1"),
    "ffn_out": ("output.dense", "ffn.lin2"),
}


def model_shape(source: ModelSource, config: Any) -> ModelShape:
    """Return the shape of a model with the task head that its config describes.

    Args:
        source: Where the model comes from; gives the public name.
        config: What ``models.load_config`` returned.

    Raises:
        ModelError: the layers or the head are not understood.
    """
    return shape_from_config(config, source.public_name)


def meta_model(config: Any) -> Any:
    """Build the model with its task head on the meta device: shapes without memory.

    Raises:
        ModelError: transformers has no sequence classifier for this architecture.
    """
    from transformers import AutoModelForSequenceClassification

    name = config._name_or_path
    try:
        with torch.device("meta"), quiet_transformers():
            return AutoModelForSequenceClassification.from_config(config)
    except (ValueError, TypeError, AttributeError, KeyError, ImportError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{name} cannot be built as a sequence classifier: {reason}",
            hint="choose an encoder such as BERT, RoBERTa or DistilBERT",
        ) from error


def shape_from_config(config: Any, name: str) -> ModelShape:
    """Return the shape of the model that a transformers config describes.

    Args:
        config: With ``num_labels`` set.
        name: Public name of the model.

    Raises:
        ModelError: no stack of transformer layers, no task head, or a layer whose linear
            layers are not where they are looked for.
    """
    model = meta_model(config)
    num_layers = int(config.num_hidden_layers)
    stack, layers = _layer_stack(model, num_layers, name)
    sites = tuple(_sites_of_layer(stack, layers, name))
    head = head_paths(model)
    if not head:
        raise ModelError(
            f"{name} has no task head that PEFT trains",
            hint="looked for modules named classifier or score",
        )
    num_head = sum(p.numel() for path in head for p in model.get_submodule(path).parameters())
    num_heads = int(config.num_attention_heads)
    head_size = getattr(config, "head_dim", None) or int(config.hidden_size) // num_heads
    return ModelShape(
        name=name,
        model_type=str(config.model_type),
        num_layers=num_layers,
        hidden_size=int(config.hidden_size),
        num_attention_heads=num_heads,
        num_key_value_heads=int(getattr(config, "num_key_value_heads", None) or num_heads),
        head_size=int(head_size),
        sites=sites,
        num_base_parameters=sum(p.numel() for p in model.parameters()) - num_head,
        num_head_parameters=num_head,
        head_paths=head,
    )


def _layer_stack(
    model: torch.nn.Module, num_layers: int, name: str
) -> tuple[str, torch.nn.ModuleList]:
    """Return path and modules of the one list that holds every transformer layer."""
    stacks = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList)
        and len(module) == num_layers
        and any(isinstance(inner, torch.nn.Linear) for inner in module.modules())
    ]
    if len(stacks) != 1:
        found = ", ".join(path for path, _ in stacks) or "none"
        raise ModelError(
            f"{name} ({type(model).__name__}): expected one list of {num_layers} transformer "
            f"layers, found {found}",
            hint="choose an encoder such as BERT, RoBERTa or DistilBERT",
        )
    return stacks[0]


def _sites_of_layer(stack: str, layers: torch.nn.ModuleList, name: str) -> list[SiteShape]:
    """Return the sites in the order the first layer holds them; every layer must agree."""
    first = _linear_sites(layers[0])
    missing = [site for site in SITE_ENDINGS if site not in first]
    if missing:
        wanted = "; ".join(f"{site}: {' or '.join(SITE_ENDINGS[site])}" for site in missing)
        linear = [p for p, m in layers[0].named_modules() if isinstance(m, torch.nn.Linear)]
        raise ModelError(
            f"{name}: no linear layer for {', '.join(missing)} in {stack}.0 (looked for {wanted}); "
            f"its linear layers are {', '.join(linear) or 'none'}",
            hint="choose an encoder such as BERT, RoBERTa or DistilBERT",
        )
    for number, layer in enumerate(layers):
        if _linear_sites(layer) != first:
            raise ModelError(f"{name}: {stack}.{number} differs from {stack}.0 in its shape")
    return [
        SiteShape(
            site=site,
            path=f"{stack}.{{layer}}.{path}",
            in_features=in_features,
            out_features=out_features,
            has_bias=has_bias,
        )
        for site, (path, in_features, out_features, has_bias) in first.items()
    ]


def _linear_sites(layer: torch.nn.Module) -> dict[str, tuple[str, int, int, bool]]:
    """Return (path, in, out, has bias) of each site, in forward order."""
    found: dict[str, tuple[str, int, int, bool]] = {}
    for path, module in layer.named_modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        for site, endings in SITE_ENDINGS.items():
            if any(path == ending or path.endswith(f".{ending}") for ending in endings):
                found.setdefault(
                    site, (path, module.in_features, module.out_features, module.bias is not None)
                )
                break
    return {site: found[site] for site in SITE_ENDINGS if site in found}
