"""MoLA: a mixture of LoRA experts with a number of experts for each layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Module, Setting
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange, Method
from autopeft.search_spaces.methods._per_site import rank_dimension
from autopeft.search_spaces.targets import (
    all_linear,
    placed_on,
    site_dimension,
    sites_of,
    target_pattern,
)

RANKS = (1, 2, 4, 8, 16)
TOP_K = 2
#: Experts in each quarter of the depth, for a mean of 5: the paper's rectangle, triangle,
#: inverted triangle and hourglass, and the diamond, since its last version (NAACL 2025) finds
#: experts in the middle layers to help most.
PATTERNS: Mapping[str, tuple[int, int, int, int]] = {
    "even": (5, 5, 5, 5),
    "falling": (8, 6, 4, 2),
    "rising": (2, 4, 6, 8),
    "hourglass": (8, 2, 2, 8),
    "middle": (2, 8, 8, 2),
}


@METHODS.register("mola")
class Mola(Method):
    """Gao et al. 2024: LoRA experts behind a router that sends each token to two of them."""

    name = "mola"
    title = "MoLA"
    family = "low-rank"
    paper = "arXiv 2402.08562"
    saved_as = "ours"
    module_file = "autopeft.workers.modules.mola"
    # The authors use 3e-4 over 20 epochs; about a hundred steps, each expert seeing a share of
    # the tokens, need as much as LoRA and more.
    learning_rate = LearningRateRange(low=3e-4, default=3e-3, high=2e-2)

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return rank, mean number of experts, pattern over depth, scaling and sites."""
        return (
            rank_dimension(shape.sites, RANKS, 4, "Rank of each expert."),
            Dimension(
                name="experts",
                kind="ordinal",
                values=(2, 3, 5, 8),
                default=5,
                help="Mean number of experts a layer, at least 2 each.",
            ),
            Dimension(
                name="pattern",
                kind="categorical",
                values=tuple(PATTERNS),
                default="rising",
                help="Where in the depth the experts are; rising puts most near the output.",
            ),
            Dimension(
                name="alpha_ratio",
                kind="ordinal",
                values=(0.5, 1.0, 2.0, 4.0),
                default=2.0,
                help="Factor of the update: LoRA alpha as a multiple of the rank.",
            ),
            site_dimension(
                shape,
                all_linear(shape),
                default=("q", "k", "v", "qkv", "attention_output"),
                help="Linear layers that get experts.",
            ),
        )

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count ``rank * (in + out)`` an expert, and ``in`` more for its row of the router."""
        rank = module["rank"]
        assert isinstance(rank, int)
        experts = self.experts(shape, module)
        return sum(
            experts[layer] * (rank * (site.in_features + site.out_features) + site.in_features)
            for site, layers in placed_on(shape, module)
            for layer in layers
        )

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of ``MolaConfig``."""
        experts = self.experts(shape, module)
        return {
            "peft_type": "AUTOPEFT_MOLA",
            "rank": module["rank"],
            "scaling": module["alpha_ratio"],
            "top_k": TOP_K,
            "experts": {
                site.path_in(layer): experts[layer]
                for site, layers in placed_on(shape, module)
                for layer in layers
            },
            "target_modules": target_pattern(shape, module.layers, sites_of(module)),
        }

    def layer_settings(
        self, shape: ModelShape, module: Module, layer: int
    ) -> Mapping[str, Setting]:
        """Return an even number of experts: those of this layer."""
        experts = self.experts(shape, module)[layer]
        return {**module.as_dict(), "pattern": "even", "experts": experts}

    @staticmethod
    def experts(shape: ModelShape, module: Module) -> dict[int, int]:
        """Return the number of experts of each layer: the pattern, scaled to the mean.

        Rounded, and at least 2, so that there is something to route.
        """
        mean, pattern = module["experts"], PATTERNS[str(module["pattern"])]
        assert isinstance(mean, int)
        return {
            layer: max(TOP_K, round(pattern[4 * layer // shape.num_layers] * mean / 5))
            for layer in module.layers
        }
