"""RandLoRA: a full-rank sum of fixed random low-rank products, scaled by trained diagonals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import (
    PerSite,
    categorical,
    narrowest,
    ordinal,
    plain_number,
    up_to,
)

RANKS = (4, 8, 16, 32, 64, 128)
ALPHA_RATIOS = (5.0, 10.0, 20.0, 40.0)


@METHODS.register("randlora")
class Randlora(PerSite):
    """Albert et al. 2025 (equation 3 of arXiv 2502.00987): ``sum_j B_j Lambda_j A Gamma_j``.

    There are as many terms as make the update full-rank, so that parameters *fall* with the
    rank. The random bases are rebuilt from their seed: PEFT would write them once for each
    layer.
    """

    name = "randlora"
    title = "RandLoRA"
    family = "shared projections"
    paper = "arXiv 2502.00987"
    is_combinable = False  # PEFT reads every adapter's config as if it were its own
    peft_type = "RANDLORA"
    supports_conv1d = True
    supports_quantized = True
    is_mergeable = True
    # The paper trains at 1e-4 to 1e-3, as LoRA, with alpha 20 times the rank.
    learning_rate = LearningRateRange(low=2e-4, default=2e-3, high=1e-2)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return rank, scaling and how sparse the bases are."""
        return (
            ordinal(
                "rank",
                up_to(RANKS, narrowest(sites)),
                32,
                "Rank of each random product; parameters fall with it.",
            ),
            ordinal("alpha_ratio", ALPHA_RATIOS, 20.0, "Alpha as a multiple of the rank."),
            categorical("bases", ("dense", "sparse"), "dense", "Random bases, or ternary ones."),
        )

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count two diagonals for each term."""
        rank, width = int(settings["rank"]), min(site.in_features, site.out_features)
        return -(-width // rank) * (rank + width)

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return rank, alpha and bases."""
        settings: Mapping[str, Any] = module.as_dict()
        return {
            "r": settings["rank"],
            "randlora_alpha": plain_number(settings["rank"] * settings["alpha_ratio"]),
            "sparse": settings["bases"] == "sparse",
            "save_projection": False,
        }
