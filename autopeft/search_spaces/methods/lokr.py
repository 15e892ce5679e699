"""LoKr: the update as a Kronecker product."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import (
    PerSite,
    categorical,
    ordinal,
    plain_number,
    rank_dimension,
)

RANKS = (1, 2, 4, 8, 16, 32)
ALPHA_RATIOS = (0.5, 1.0, 2.0, 4.0)
FACTORS = (-1, 2, 4, 8, 16)


@METHODS.register("lokr")
class Lokr(PerSite):
    """Yeh et al. 2024 (section 3.3 of arXiv 2309.14859): ``W1 (x) W2``, with W2 low-rank if large.

    ``factor`` is about the side of W1; -1 takes the factor nearest to the square root.
    """

    name = "lokr"
    title = "LoKr"
    family = "low-rank"
    paper = "arXiv 2309.14859"
    peft_type = "LOKR"
    is_mergeable = True
    # PEFT's published run works at 3e-3 for 5,000 steps: ten times LoRA's.
    learning_rate = LearningRateRange(low=1e-3, default=1e-2, high=5e-2)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return rank, scaling, factor and whether both sides are decomposed."""
        return (
            rank_dimension(sites, RANKS, 8, "Rank of the large side; parameters grow with it."),
            ordinal("alpha_ratio", ALPHA_RATIOS, 2.0, "Alpha as a multiple of the rank."),
            categorical("factor", FACTORS, -1, "Side of the small matrix."),
            categorical(
                "decompose_both", (False, True), False, "Make the small side low-rank too."
            ),
        )

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count the two sides, each whole or as two factors."""
        rank, factor = int(settings["rank"]), int(settings["factor"])
        in_small, in_large = factorization(site.in_features, factor)
        out_small, out_large = factorization(site.out_features, factor)
        small = out_small * in_small
        if settings["decompose_both"] and rank < max(out_small, in_small) / 2:
            small = rank * (out_small + in_small)
        large = out_large * in_large
        if rank < max(out_large, in_large) / 2:
            large = rank * (out_large + in_large)
        return small + large

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return rank, alpha and factor."""
        settings: Mapping[str, Any] = module.as_dict()
        return {
            "r": settings["rank"],
            "alpha": plain_number(settings["rank"] * settings["alpha_ratio"]),
            "decompose_factor": settings["factor"],
            "decompose_both": settings["decompose_both"],
        }

    def settings_from_peft(self, shape: ModelShape, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the settings."""
        return {
            "rank": config["r"],
            "alpha_ratio": config["alpha"] / config["r"],
            "factor": config["decompose_factor"],
            "decompose_both": config["decompose_both"],
        }


def factorization(width: int, factor: int) -> tuple[int, int]:
    """Return two numbers whose product is ``width``, the smaller first unless it is ``factor``.

    As ``peft.tuners.lokr.layer.factorization``: ``factor`` itself where it divides the width,
    else the largest divisor up to it; -1 searches near the square root.
    """
    if factor > 0 and width % factor == 0:
        return factor, width // factor
    limit = width if factor == -1 else factor
    small, large = 1, width
    while small < large:
        divisor = small + 1
        while width % divisor:
            divisor += 1
        if divisor + width // divisor > small + large or divisor > limit:
            break
        small, large = divisor, width // divisor
    return min(small, large), max(small, large)
