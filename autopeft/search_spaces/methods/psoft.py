"""PSOFT: rotate the principal subspace of the weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import PerSite, categorical, rank_dimension

RANKS = (4, 8, 16, 32, 64, 128, 256)


@METHODS.register("psoft")
class Psoft(PerSite):
    """Wu et al. 2026 (ICLR 2026): ``A diag(a) R diag(b) B`` in the leading singular directions.

    The principal part is rebuilt from the base weights, so the file holds only what trains.
    """

    name = "psoft"
    title = "PSOFT"
    family = "orthogonal"
    paper = "arXiv 2505.11235"
    peft_type = "PSOFT"
    module_file = "autopeft.workers.modules.psoft"
    is_mergeable = True
    # PEFT's published run uses LoRA's 1e-4, the paper up to 5e-4 and more for small ranks; so few
    # parameters near the identity need more in about a hundred steps.
    learning_rate = LearningRateRange(low=3e-4, default=3e-3, high=3e-2)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return the rank and whether lengths are trained beside directions."""
        return (
            rank_dimension(sites, RANKS, 64, "Singular directions; parameters grow as its square."),
            categorical("scaled", (True, False), True, "Train a scale on either side."),
        )

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count the upper triangle of one rotation, and both scales."""
        rank = int(settings["rank"])
        return rank * (rank - 1) // 2 + (2 * rank if settings["scaled"] else 0)

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return rank and scales; alpha equals the rank, which scales by one."""
        settings = module.as_dict()
        return {
            "r": settings["rank"],
            "psoft_alpha": settings["rank"],
            "psoft_mag_a": settings["scaled"],
            "psoft_mag_b": settings["scaled"],
        }

    def settings_from_peft(self, shape: ModelShape, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the settings."""
        return {"rank": config["r"], "scaled": config["psoft_mag_a"]}
