"""Prefixes that can be put on single layers and stand beside other methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.blocks import SIZES_OF_768
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange, Method
from autopeft.search_spaces.targets import pattern_of, placed_sites

#: AutoPEFT's lengths, and those of UniPELT (10) and of the MAM adapter (30).
LENGTHS = tuple(sorted({*SIZES_OF_768, 10, 30}))
#: What makes a layer's queries; the module around it is the attention layer.
QUERIES = ("q", "qkv")


@METHODS.register("layer-prefix")
class LayerPrefix(Method):
    """Li and Liang 2021 without the reparametrising network, layer by layer.

    The keys and values are prepended inside the attention function of transformers, not handed
    over as a cache as PEFT does it: so layers can be chosen, other methods can stand beside it,
    gradient checkpointing works, and no positions are taken from the text. The gate is
    UniPELT's (arXiv 2110.07577).
    """

    name = "layer-prefix"
    title = "Layer prefix"
    family = "prompt"
    paper = "arXiv 2101.00190"
    saved_as = "ours"
    module_file = "autopeft.workers.modules.layer_prefix"
    starts_as_base = False
    # P-tuning v2 (arXiv 2110.07602) uses 5e-3 to 2e-2 for classification; the prefix starts
    # at random with unit variance, so small rates hardly move it in about a hundred steps.
    learning_rate = LearningRateRange(low=1e-3, default=1e-2, high=1e-1)

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return length and gate."""
        return (
            Dimension(
                name="prefix_length",
                kind="ordinal",
                values=LENGTHS,
                default=12,
                help="Learned keys and values in front of a layer's own.",
            ),
            Dimension(
                name="gated",
                kind="categorical",
                values=(False, True),
                default=False,
                help="Scale the prefix by a learned gate for each token, as UniPELT does.",
            ),
        )

    def site_names(self, settings: Mapping[str, Any]) -> tuple[str, ...] | None:
        """Return what makes the queries: layers without attention make no difference."""
        return QUERIES

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count a key and a value for each position and key-value head, and ``d + 1`` a gate."""
        length = module["prefix_length"]
        assert isinstance(length, int)
        each = 2 * length * shape.num_key_value_heads * shape.head_size
        return sum(
            (each + (site.in_features + 1 if module["gated"] else 0)) * len(layers)
            for site, layers in _placed(shape, module)
        )

    def inference_extra_flops(self, shape: ModelShape, module: Module) -> int:
        """Count what a token's scores and sums over the prefix cost, in each adapted layer."""
        length = module["prefix_length"]
        assert isinstance(length, int)
        each = 4 * length * shape.num_attention_heads * shape.head_size
        return each * sum(len(layers) for _, layers in _placed(shape, module))

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of ``LayerPrefixConfig``."""
        widths = {site.in_features for site, _ in _placed(shape, module)}
        return {
            "peft_type": "AUTOPEFT_LAYER_PREFIX",
            "prefix_length": module["prefix_length"],
            "num_key_value_heads": shape.num_key_value_heads,
            "head_size": shape.head_size,
            "width": next(iter(widths), shape.hidden_size),
            "gated": module["gated"],
            "target_modules": pattern_of(
                (_attention(site), layers) for site, layers in _placed(shape, module)
            ),
        }

    def unavailable(self, shape: ModelShape) -> str | None:
        """Refuse models whose attention cannot be extended from outside."""
        if not shape.uses_attention_interface:
            return f"the attention of {shape.model_type} cannot be exchanged in transformers"
        if not any(shape.sites_called(name) for name in QUERIES):
            return f"{shape.model_type} has no attention layer (looked for {', '.join(QUERIES)})"
        return super().unavailable(shape)


def _placed(shape: ModelShape, module: Module) -> list[tuple[SiteShape, tuple[int, ...]]]:
    """Return what makes the queries in the adapted layers."""
    return list(placed_sites(shape, QUERIES, module.layers))


def _attention(site: SiteShape) -> SiteShape:
    """Return the attention layer around the layer that makes its queries."""
    data = site.to_json()
    return SiteShape.from_json({**data, "path": site.path.rpartition(".")[0], "kind": "block"})
