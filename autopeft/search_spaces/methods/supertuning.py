"""Super-Tuning: train the largest weights of each layer, with a LoRA beside them if wished."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import PerSite, categorical, ordinal

DENSITIES = (0.001, 0.003, 0.01, 0.03, 0.1)
RANKS = (0, 2, 4, 8, 16)


@METHODS.register("supertuning")
class Supertuning(PerSite):
    """Sparse weights chosen by their size (arXiv 2607.09287); ``rank`` above 0 is Supra.

    The file also holds where each weight stands.
    """

    name = "supertuning"
    title = "Super-Tuning"
    family = "sparse"
    paper = "arXiv 2607.09287"
    is_combinable = False  # PEFT reads every adapter's config as if it were its own
    peft_type = "SUPERTUNING"
    is_mergeable = True
    # Large weights bear small relative steps; the upper end as for SHiRA.
    learning_rate = LearningRateRange(low=1e-4, default=1e-3, high=1e-2)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return the part of the weights that trains, which end, and the rank beside them."""
        room = min((site.in_features * site.out_features for site in sites), default=0)
        densities = tuple(each for each in DENSITIES if num_trained(room, each) >= 1)
        width = min((min(s.in_features, s.out_features) for s in sites), default=0)
        return (
            ordinal("density", densities, 0.01, "Part of the weights that trains."),
            categorical("select", ("largest", "smallest"), "largest", "Which weights train."),
            ordinal(
                "rank", tuple(rank for rank in RANKS if rank <= width), 0, "Rank of a LoRA beside."
            ),
        )

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count the weights and the LoRA."""
        sparse = num_trained(site.in_features * site.out_features, float(settings["density"]))
        return sparse + int(settings["rank"]) * (site.in_features + site.out_features)

    def saved(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count also the position of each weight."""
        sparse = num_trained(site.in_features * site.out_features, float(settings["density"]))
        return self.count(site, settings) + sparse

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return sparsity, end and rank; alpha is twice the rank."""
        settings: Mapping[str, Any] = module.as_dict()
        arguments = {
            "sparsity": sparsity(settings["density"]),
            "select_top": settings["select"] == "largest",
        }
        if settings["rank"]:
            arguments |= {"r": settings["rank"], "lora_alpha": 2.0 * settings["rank"]}
        return arguments


def sparsity(density: float) -> float:
    """Return the part of the weights that stays, free of the rounding of a subtraction."""
    return round(1.0 - density, 9)


def num_trained(num_weights: int, density: float) -> int:
    """Return how many of some weights train, rounded as PEFT does."""
    return int(num_weights * (1 - sparsity(density)))
