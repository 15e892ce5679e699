"""What a published ``adapter_config.json`` means: which sites of a model, and nothing hidden."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from autopeft.records import ModelShape, SiteShape

#: Fields that say where an adapter stands; they are read as sites and layers.
_PLACES = frozenset(
    {
        "target_modules",
        "target_parameters",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "feedforward_modules",
    }
)
#: Fields that change neither what is trained nor how.
_ASIDE = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "fan_in_fan_out",
        "inference_mode",
        "megatron_core",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "progressbar",
        "rank_pattern",
        "revision",
        "runtime_config",
        "runtime_offload_base_weight",
        "save_projection",
        "task_type",
        # AdaLoRA's schedule, which is the job's here.
        "deltaT",
        "orth_reg_weight",
        "tfinal",
        "tinit",
        "total_step",
    }
)
#: Values that mean "not used", and those that PEFT fills in where nobody chose.
_UNUSED = (None, False, 0, 0.0, "", "none")
_DEFAULTS: Mapping[str, tuple[Any, ...]] = {
    "ab_svd_init": ("psoft_init",),
    "asa_importance_beta": (0.85,),
    "asa_schedule_exponent": (3.0,),
    "asa_target_subspaces": (50,),
    "asa_uncertainty_beta": (0.85,),
    "beta1": (0.85,),
    "beta2": (0.85,),
    "d_initial": (0.1,),
    "deltaT": (1,),
    "eps": (6e-5,),
    "final_warmup": (1000,),
    "init_ia3_weights": (True,),
    "init_logits_std": (0.1,),
    "init_lora_weights": (True,),
    "init_scale": (1.0,),
    "init_theta_d_bound": (0.02,),
    "init_v_bound": (0.02,),
    "init_vector_bank_bound": (0.02,),
    "init_warmup": (50,),
    "init_weights": (True, "xavier_uniform", "orthogonal"),
    "mask_interval": (100,),
    "mask_type": ("random",),
    "mini_r": (1,),
    "n_frequency_pattern": ({},),
    "num_cayley_neumann_terms": (5,),
    "orth_reg_weight": (0.5,),
    "poly_type": ("poly",),
    "proj_seed": (42,),
    "projection_seed": (42,),
    "psoft_orth": (True,),
    "psoft_svd": ("full",),
    "psoft_svd_lowrank_niter": (10,),
    "qalora_group_size": (16,),
    "r": (8,),
    "random_loc_seed": (777,),
    "regularization_alpha": (1e-3,),
    "save_precomputed_indices": (True,),
    "select_top": (True,),
    "subspace_rank": (1,),
    "svd_threshold": (0.1,),
    "topk": (2,),
    "use_cayley_neumann": (True,),
    "use_idwt": (True,),
}


def matched(
    shape: ModelShape,
    candidates: Iterable[SiteShape],
    config: Mapping[str, Any],
    targets: Any = None,
) -> list[tuple[SiteShape, tuple[int, ...]]]:
    """Return the sites that a config names, each with its layers; () outside the layers.

    As PEFT matches: a string is a regular expression for whole names, ``all-linear`` stands
    for every linear layer, a list holds names or their endings.
    """
    wanted = config.get("target_modules") if targets is None else targets
    excluded = config.get("exclude_modules")
    found: list[tuple[SiteShape, tuple[int, ...]]] = []
    for site in candidates:
        if not site.is_in_layers:
            if _matches(wanted, site.path) and not _matches(excluded, site.path):
                found.append((site, ()))
            continue
        layers = tuple(
            layer
            for layer in site.layers_among(_stack_layers(shape, site))
            if _matches(wanted, site.path_in(layer))
            and not _matches(excluded, site.path_in(layer))
            and _is_transformed(config, layer - site.first_layer)
        )
        if layers:
            found.append((site, layers))
    return found


def placement(
    placed: Sequence[tuple[SiteShape, tuple[int, ...]]],
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the names of the sites and the layers that carry all of them.

    Raises:
        ValueError: there are none, or sites stand on different layers.
    """
    if not placed:
        raise ValueError("none of the layers it names was found in the model")
    names = tuple(dict.fromkeys(site.site for site, _ in placed))
    layers = tuple(sorted({layer for _, layers in placed for layer in layers}))
    for site, own in placed:
        if site.is_in_layers and own != site.layers_among(_within(site, layers, placed)):
            raise ValueError(f"{site.site} stands on other layers than the rest")
    return names, layers


def check_fields(config: Mapping[str, Any], rebuilt: Mapping[str, Any]) -> None:
    """Compare a published config with what its module becomes.

    Raises:
        ValueError: a field says something that the module does not.
    """
    for field, value in config.items():
        if field in _ASIDE or field in _PLACES or field.endswith(("dropout", "seed", "prng_key")):
            continue
        if field == "use_bdlora" and field in rebuilt:
            continue  # read in meaning: its patterns may be spelled in many ways
        if field in rebuilt:
            if not _equal(value, rebuilt[field]):
                raise ValueError(f"{field} is {value!r}, which would become {rebuilt[field]!r}")
        elif not (_is_unused(value) or value in _DEFAULTS.get(field, ())):
            raise ValueError(f"{field} is {value!r}, which no setting stands for")


def _matches(wanted: Any, path: str) -> bool:
    if wanted is None:
        return False
    if wanted == "all-linear":
        return True
    if isinstance(wanted, str):
        return re.fullmatch(wanted, path) is not None
    return any(path == each or path.endswith(f".{each}") for each in wanted)


def _is_transformed(config: Mapping[str, Any], number: int) -> bool:
    chosen = config.get("layers_to_transform")
    if chosen is None:
        return True
    return number in ([chosen] if isinstance(chosen, int) else chosen)


def _stack_layers(shape: ModelShape, site: SiteShape) -> range:
    """Return the numbers of the layers of the stack that a site stands in."""
    start = 0
    for _, length in shape.stacks:
        if start == site.first_layer:
            return range(start, start + length)
        start += length
    return range(shape.num_layers)


def _within(
    site: SiteShape,
    layers: tuple[int, ...],
    placed: Sequence[tuple[SiteShape, tuple[int, ...]]],
) -> tuple[int, ...]:
    """Return those of ``layers`` that are of the same stack as a site."""
    starts = sorted({each.first_layer for each, _ in placed if each.is_in_layers})
    later = [start for start in starts if start > site.first_layer]
    end = min(later, default=None)
    return tuple(
        layer for layer in layers if layer >= site.first_layer and (end is None or layer < end)
    )


def _is_unused(value: Any) -> bool:
    return value in _UNUSED or (isinstance(value, (dict, list)) and not value)


def _equal(value: Any, other: Any) -> bool:
    if isinstance(value, dict) and isinstance(other, dict):
        return all(_equal(value.get(key), other.get(key)) for key in value.keys() | other.keys())
    if isinstance(value, (list, tuple)) and isinstance(other, (list, tuple)):
        return sorted(map(str, value)) == sorted(map(str, other))
    return bool(value == other) or (_is_unused(value) and _is_unused(other))
