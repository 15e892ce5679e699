"""Gated LoRA: a low-rank update that a learned gate turns up or down, token by token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange, Method
from autopeft.search_spaces.methods._per_site import rank_dimension
from autopeft.search_spaces.targets import (
    all_linear,
    placed_on,
    site_dimension,
    sites_of,
    target_pattern,
)

RANKS = (1, 2, 4, 8, 16, 32, 64)


@METHODS.register("gated-lora")
class GatedLora(Method):
    """The LoRA part of UniPELT, Mao et al. 2022: a gate in place of the constant factor."""

    name = "gated-lora"
    title = "Gated LoRA"
    family = "low-rank"
    paper = "arXiv 2110.07577"
    saved_as = "ours"
    module_file = "autopeft.workers.modules.gated_lora"
    # As LoRA; the gate starts at one half, so that a little more is needed.
    learning_rate = LearningRateRange(low=2e-4, default=3e-3, high=1e-2)

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return rank, scaling and sites; ranks above the width are left out."""
        return (
            rank_dimension(shape.sites, RANKS, 8, "Rank of the update; parameters grow with it."),
            Dimension(
                name="alpha_ratio",
                kind="ordinal",
                values=(0.5, 1.0, 2.0, 4.0),
                default=2.0,
                help="Constant factor of the update, which the gate multiplies.",
            ),
            site_dimension(
                shape,
                all_linear(shape),
                default=("q", "v", "qkv"),
                help="Linear layers that get an update.",
            ),
        )

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count ``rank * (in + out)`` a site and layer, and ``in + 1`` for its gate."""
        rank = module["rank"]
        assert isinstance(rank, int)
        return sum(
            (rank * (site.in_features + site.out_features) + site.in_features + 1) * len(layers)
            for site, layers in placed_on(shape, module)
        )

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of ``GatedLoraConfig``."""
        return {
            "peft_type": "AUTOPEFT_GATED_LORA",
            "rank": module["rank"],
            "scaling": module["alpha_ratio"],
            "target_modules": target_pattern(shape, module.layers, sites_of(module)),
        }
