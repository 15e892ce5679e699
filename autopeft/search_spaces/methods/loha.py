"""LoHa: two low-rank matrices multiplied element by element."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import PerSite, ordinal, plain_number, rank_dimension

RANKS = (1, 2, 4, 8, 16, 32)
ALPHA_RATIOS = (0.5, 1.0, 2.0, 4.0)


@METHODS.register("loha")
class Loha(PerSite):
    """Hyeon-Woo et al. 2022 (proposition 1 of arXiv 2108.06098): ``(B1 A1) * (B2 A2)``."""

    name = "loha"
    title = "LoHa"
    family = "low-rank"
    paper = "arXiv 2108.06098"
    peft_type = "LOHA"
    is_mergeable = True
    # One of four factors starts at zero and two multiply each other, so that first steps are
    # smaller than LoRA's: a little above its range.
    learning_rate = LearningRateRange(low=5e-4, default=3e-3, high=3e-2)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return rank and scaling."""
        return (
            rank_dimension(
                sites, RANKS, 4, "Rank of each matrix; the update's is up to its square."
            ),
            ordinal("alpha_ratio", ALPHA_RATIOS, 1.0, "Alpha as a multiple of the rank."),
        )

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count four factors."""
        return 2 * int(settings["rank"]) * (site.in_features + site.out_features)

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return rank and alpha."""
        settings: Mapping[str, Any] = module.as_dict()
        alpha = plain_number(settings["rank"] * settings["alpha_ratio"])
        return {"r": settings["rank"], "alpha": alpha}

    def settings_from_peft(self, shape: ModelShape, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the settings."""
        return {"rank": config["r"], "alpha_ratio": config["alpha"] / config["r"]}
