"""AdaMSS: clusters of the outputs, each with an update in the weight's leading directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import PerSite, narrowest, ordinal, up_to

RANKS = (8, 16, 32, 64, 128, 256)
SUBSPACES = (2, 3, 5, 10)


@METHODS.register("adamss")
class Adamss(PerSite):
    """Zheng et al. 2025 (NeurIPS 2025): k-means on the left singular vectors, rank 1 a cluster.

    The rank of a cluster is 1, the value that PEFT and the paper start from, and subspaces are
    not pruned in training. The file also holds the frozen right singular vectors.
    """

    name = "adamss"
    title = "AdaMSS"
    family = "subspace"
    paper = "openreview 8ZdWmpYxT0"
    peft_type = "ADAMSS"
    module_file = "autopeft.workers.modules.adamss"
    is_mergeable = True
    same_fields: ClassVar[Mapping[str, str]] = {"rank": "r", "subspaces": "num_subspaces"}
    # The paper trains at 1e-3 to 1e-2 on GLUE: parameters are few.
    learning_rate = LearningRateRange(low=1e-3, default=1e-2, high=5e-2)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return directions and clusters."""
        ranks = up_to(RANKS, narrowest(sites))
        return (
            ordinal("rank", ranks, 64, "Leading directions that updates are made of."),
            ordinal("subspaces", up_to(SUBSPACES, narrowest(sites)), 5, "Clusters of outputs."),
        )

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count a row of coefficients for each cluster and one number for each output."""
        rank, clusters = int(settings["rank"]), int(settings["subspaces"])
        return clusters * rank + site.out_features

    def saved(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count also the frozen directions, which treat a bias as one more input."""
        width = site.in_features + (1 if site.has_bias else 0)
        return self.count(site, settings) + int(settings["rank"]) * width

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return directions and clusters."""
        return {"r": module["rank"], "num_subspaces": module["subspaces"], "subspace_rank": 1}
