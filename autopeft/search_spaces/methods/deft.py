"""DEFT: remove a low-rank subspace of the weight and put something new into it."""

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

RANKS = (1, 2, 4, 8, 16, 32, 64)
ALPHA_RATIOS = (0.5, 1.0, 2.0, 4.0)


@METHODS.register("deft")
class Deft(PerSite):
    """Kumar et al. 2025: ``(I - P_proj) W + Q_P R`` (NeurIPS 2025).

    ``R`` starts so that the update is none. With ``decomposition`` ``relu`` the projector is
    ``P relu(P)'``, with ``qr`` it is orthogonal. The update is scaled by ``alpha_ratio``.
    """

    name = "deft"
    title = "DEFT"
    family = "low-rank"
    paper = "NeurIPS 2025, Kumar et al."
    peft_type = "DEFT"
    supports_conv1d = True
    is_mergeable = True
    # PEFT's published run uses LoRA's 1e-4 at LoRA's scaling; shifted up as for LoRA here.
    learning_rate = LearningRateRange(low=2e-4, default=2e-3, high=1e-2)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return rank, scaling and decomposition."""
        return (
            rank_dimension(sites, RANKS, 8, "Rank of the update; parameters grow with it."),
            ordinal("alpha_ratio", ALPHA_RATIOS, 1.0, "Alpha as a multiple of the rank."),
            categorical(
                "decomposition", ("relu", "qr"), "relu", "How the projector follows from P."
            ),
        )

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count projection and injection; the rank is at most the output width."""
        rank = min(int(settings["rank"]), site.out_features)
        return rank * (site.in_features + site.out_features)

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return rank, alpha and decomposition."""
        settings: Mapping[str, Any] = module.as_dict()
        return {
            "r": settings["rank"],
            "alpha": plain_number(settings["rank"] * settings["alpha_ratio"]),
            "decomposition_method": settings["decomposition"],
        }

    def settings_from_peft(self, shape: ModelShape, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the settings; without an alpha the update is not scaled."""
        return {
            "rank": config["r"],
            "alpha_ratio": float((config.get("alpha") or config["r"]) / config["r"]),
            "decomposition": config["decomposition_method"],
        }
