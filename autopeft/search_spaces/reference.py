"""A model that has every site, to check a space where no model is known yet."""

from __future__ import annotations

from collections.abc import Iterable

from autopeft.records import ModelShape, SiteKind, SiteShape
from autopeft.search_spaces.targets import (
    BLOCK_NAMES,
    CONVOLUTION_NAMES,
    EMBEDDING_NAMES,
    NORM_NAMES,
    PARAMETER_NAMES,
    SITE_NAMES,
)

_WIDTH, _INNER, _LAYERS = 768, 3072, 12
_NOT_IN_LAYERS = frozenset({*EMBEDDING_NAMES, "embedding_norm", "final_norm", "patch_embedding"})


def _sites(names: Iterable[str], kind: SiteKind = "linear") -> tuple[SiteShape, ...]:
    return tuple(
        SiteShape(
            site=name,
            path=name if name in _NOT_IN_LAYERS else f"encoder.layer.{{layer}}.{name}",
            in_features=_INNER if name == "ffn_out" else _WIDTH,
            out_features=_INNER if name == "ffn_in" else _WIDTH,
            has_bias=True,
            kind=kind,
            kernel_size={"convolution": (3, 3), "parameter": (8,)}.get(kind, ()),
        )
        for name in names
    )


REFERENCE_SHAPE = ModelShape(
    name="a model with every site",
    model_type="bert",
    num_layers=_LAYERS,
    hidden_size=_WIDTH,
    num_attention_heads=12,
    num_key_value_heads=12,
    head_size=64,
    sites=_sites(SITE_NAMES),
    num_base_parameters=109_482_240,
    num_head_parameters=1_538,
    head_paths=("classifier",),
    stacks=(("encoder", 6), ("decoder", 6)),
    norms=_sites(NORM_NAMES, "norm"),
    embeddings=_sites(EMBEDDING_NAMES, "embedding"),
    blocks=_sites(BLOCK_NAMES, "block"),
    convolutions=_sites(CONVOLUTION_NAMES, "convolution"),
    parameters=_sites(PARAMETER_NAMES, "parameter"),
    vocab_size=30_522,
    forward_arguments=("input_ids", "attention_mask", "past_key_values", "inputs_embeds"),
    uses_attention_interface=True,
)
