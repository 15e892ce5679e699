"""HRA: a chain of Householder reflections of the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import PerSite, categorical, ordinal, up_to

RANKS = (2, 4, 8, 16, 32)


@METHODS.register("hra")
class Hra(PerSite):
    """Yuan et al. 2024 (equation 2 of arXiv 2405.17484): ``r`` reflections, paired to cancel.

    An even number starts at the identity. With ``orthogonal`` the vectors are made orthogonal
    by Gram-Schmidt.
    """

    name = "hra"
    title = "HRA"
    family = "orthogonal"
    paper = "arXiv 2405.17484"
    peft_type = "HRA"
    is_mergeable = True
    same_fields: ClassVar[Mapping[str, str]] = {"rank": "r", "orthogonal": "apply_GS"}
    # The paper trains at 1e-3 to 8e-3 for several epochs.
    learning_rate = LearningRateRange(low=5e-4, default=5e-3, high=3e-2)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return the number of reflections and whether they are orthogonal."""
        width = min((site.in_features for site in sites), default=0)
        return (
            ordinal("rank", up_to(RANKS, width), 8, "Reflections; parameters grow with them."),
            categorical("orthogonal", (False, True), False, "Make the reflections orthogonal."),
        )

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count a vector for each reflection."""
        return int(settings["rank"]) * site.in_features

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return rank and variant."""
        return {"r": module["rank"], "apply_GS": module["orthogonal"]}
