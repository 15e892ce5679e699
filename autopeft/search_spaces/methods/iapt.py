"""IAPT: prompts that each layer makes from its input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module, Setting
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange, Method
from autopeft.search_spaces.methods._matrices import whole
from autopeft.search_spaces.targets import pattern_of, placed_sites

LENGTHS = (1, 2, 4, 8)
BOTTLENECKS = (2, 4, 8, 16, 32, 64)
#: Coefficients of a layer's activation function.
NUM_COEFFICIENTS = 10


@METHODS.register("iapt")
class Iapt(Method):
    """Zhu et al. 2024: a generator in each layer reads the input and writes a few soft tokens.

    The soft tokens are prepended inside the attention function, and take no positions. A
    generator reads the whole input: in a language model it would read what is to be predicted,
    so there it is not offered.
    """

    name = "iapt"
    title = "IAPT (instruction-aware prompts)"
    family = "prompt"
    paper = "arXiv 2405.18203"
    saved_as = "ours"
    module_file = "autopeft.workers.modules.iapt"
    starts_as_base = False
    tasks = frozenset(
        {
            "audio-classification",
            "classification",
            "image-classification",
            "multiple-choice",
            "regression",
            "token-classification",
        }
    )
    # The paper trains with 5e-4 over epochs; the generators are small networks, and about a
    # hundred steps need more.
    learning_rate = LearningRateRange(low=2e-4, default=2e-3, high=2e-2)

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return the number of soft tokens and the width of the generators."""
        bottlenecks = tuple(m for m in BOTTLENECKS if m <= shape.hidden_size)
        return (
            Dimension(
                name="num_virtual_tokens",
                kind="ordinal",
                values=LENGTHS,
                default=4,
                help="Soft tokens each layer makes.",
            ),
            Dimension(
                name="bottleneck",
                kind="ordinal",
                values=bottlenecks,
                default=16 if 16 in bottlenecks else max(bottlenecks, default=16),
                help="Width of the generators inside.",
            ),
        )

    def site_names(self, settings: Mapping[str, Setting]) -> tuple[str, ...] | None:
        """Return what makes the keys: layers without attention make no difference."""
        return ("k",)

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count two projections, the pooling queries and the activation of each layer."""
        settings = module.as_dict()
        m, length = whole(settings, "bottleneck"), whole(settings, "num_virtual_tokens")
        return sum(
            (2 * m * site.in_features + length * m + NUM_COEFFICIENTS) * len(layers)
            for site, layers in placed_sites(shape, ("k",), module.layers)
        )

    def inference_extra_flops(self, shape: ModelShape, module: Module) -> int:
        """Count the reading of a token, and its scores and sums over the soft tokens."""
        settings = module.as_dict()
        m, length = whole(settings, "bottleneck"), whole(settings, "num_virtual_tokens")
        attention = 4 * length * shape.num_attention_heads * shape.head_size
        return sum(
            (2 * m * site.in_features + 4 * length * m + attention) * len(layers)
            for site, layers in placed_sites(shape, ("k",), module.layers)
        )

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of the config."""
        (key, value) = (shape.sites_called(name)[0] for name in ("k", "v"))
        return {
            "peft_type": "AUTOPEFT_IAPT",
            "num_virtual_tokens": module["num_virtual_tokens"],
            "bottleneck": module["bottleneck"],
            "width": key.in_features,
            "key": _inside(key),
            "value": _inside(value),
            "target_modules": pattern_of(
                (_attention(site), layers)
                for site, layers in placed_sites(shape, ("k",), module.layers)
            ),
        }

    def unavailable(self, shape: ModelShape) -> str | None:
        """Refuse attention that cannot be extended, or whose keys are no layer of their own."""
        if not shape.uses_attention_interface:
            return f"the attention of {shape.model_type} cannot be exchanged in transformers"
        keys, values = shape.sites_called("k"), shape.sites_called("v")
        if len(keys) != 1 or len(values) != 1:
            return f"{shape.model_type} has no single layer that makes keys, or values"
        if _attention(keys[0]).path != _attention(values[0]).path:
            return f"{shape.model_type} makes keys and values in different places"
        if shape.sites_called("k_norm"):
            return f"{shape.model_type} normalises its keys, which soft tokens would lack"
        return super().unavailable(shape)


def _attention(site: SiteShape) -> SiteShape:
    """Return the attention layer around a layer of it."""
    data = site.to_json()
    return SiteShape.from_json({**data, "path": site.path.rpartition(".")[0], "kind": "block"})


def _inside(site: SiteShape) -> str:
    return site.path.rpartition(".")[2]
