"""DeLoRA: a low-rank update of bounded norm, its strength and its direction decoupled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import PerSite, ordinal, rank_dimension

RANKS = (1, 2, 4, 8, 16, 32, 64)
BOUNDS = (1, 3, 5, 15, 50)


@METHODS.register("delora")
class Delora(PerSite):
    """Bini et al. 2025 (equation 7 of arXiv 2503.18225): ``lambda / r * B Xi A * norm(W)``.

    Each of the ``r`` rank-one terms is normalised, so that the trained bound ``lambda`` alone
    sets how far the weights can move. The file also holds the norms of the frozen columns.
    """

    name = "delora"
    title = "DeLoRA"
    family = "low-rank"
    paper = "arXiv 2503.18225"
    peft_type = "DELORA"
    is_mergeable = True
    same_fields: ClassVar[Mapping[str, str]] = {"rank": "r", "bound": "delora_lambda"}
    # The paper trains at 1e-3 to 1e-2: normalised factors make the method insensitive to it.
    learning_rate = LearningRateRange(low=1e-3, default=5e-3, high=3e-2)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return rank and initial bound."""
        return (
            rank_dimension(sites, RANKS, 8, "Rank of the update; parameters grow with it."),
            ordinal("bound", BOUNDS, 15, "Where the bound of the update's norm starts."),
        )

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count the two factors and the bound."""
        return int(settings["rank"]) * (site.in_features + site.out_features) + 1

    def saved(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count also the norm of each frozen column."""
        return self.count(site, settings) + site.in_features

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return rank and bound."""
        return {"r": module["rank"], "delora_lambda": module["bound"]}
