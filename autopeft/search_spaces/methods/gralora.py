"""GraLoRA: LoRA on a grid of sub-blocks of the weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import (
    PerSite,
    common_divisor,
    dividing,
    narrowest,
    ordinal,
    plain_number,
    up_to,
)

BLOCKS = (2, 4, 8)
RANKS = (8, 16, 32, 64, 128)
ALPHA_RATIOS = (0.5, 1.0, 2.0, 4.0)


@METHODS.register("gralora")
class Gralora(PerSite):
    """Jung et al. 2025 (section 3.2 of arXiv 2505.20355): ``k x k`` blocks of rank ``r / k``.

    Parameters are those of LoRA at the same rank; the update's rank is up to ``k`` times it.
    """

    name = "gralora"
    title = "GraLoRA"
    family = "low-rank"
    paper = "arXiv 2505.20355"
    peft_type = "GRALORA"
    supports_conv1d = True
    is_mergeable = True
    # PEFT's published run uses 2e-4 where LoRA got 1e-4; otherwise as for LoRA.
    learning_rate = LearningRateRange(low=2e-4, default=3e-3, high=2e-2)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return rank, scaling and blocks; every width is cut into equal blocks."""
        return (
            ordinal(
                "rank",
                up_to(RANKS, narrowest(sites)),
                16,
                "Sum of the ranks along a row of blocks; parameters grow with it.",
            ),
            ordinal("alpha_ratio", ALPHA_RATIOS, 2.0, "Alpha as a multiple of the rank."),
            ordinal(
                "blocks", dividing(BLOCKS, common_divisor(sites)), 2, "Blocks along each side."
            ),
        )

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count as for LoRA."""
        return int(settings["rank"]) * (site.in_features + site.out_features)

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return rank, alpha and blocks."""
        settings: Mapping[str, Any] = module.as_dict()
        return {
            "r": settings["rank"],
            "alpha": plain_number(settings["rank"] * settings["alpha_ratio"]),
            "gralora_k": settings["blocks"],
        }

    def settings_from_peft(self, shape: ModelShape, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the settings."""
        return {
            "rank": config["r"],
            "alpha_ratio": config["alpha"] / config["r"],
            "blocks": config["gralora_k"],
        }
