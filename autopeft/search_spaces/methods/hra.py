"""HRA: a chain of Householder reflections of the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import PerSite, ordinal, up_to

RANKS = (2, 4, 8, 16, 32)


@METHODS.register("hra")
class Hra(PerSite):
    """Yuan et al. 2024 (equation 2 of arXiv 2405.17484): ``r`` reflections, paired to cancel.

    An even number starts at the identity. Making the vectors orthogonal is not offered: PEFT
    starts them in equal pairs, which Gram-Schmidt turns into no numbers at all.
    """

    name = "hra"
    title = "HRA"
    family = "orthogonal"
    paper = "arXiv 2405.17484"
    needs_bare_layers = True  # PEFT multiplies the weight itself, whatever wraps it
    peft_type = "HRA"
    is_mergeable = True
    same_fields: ClassVar[Mapping[str, str]] = {"rank": "r"}
    # The paper trains at 1e-3 to 8e-3 for several epochs.
    learning_rate = LearningRateRange(low=5e-4, default=5e-3, high=3e-2)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return the number of reflections, an even one."""
        width = min((site.in_features for site in sites), default=0)
        return (ordinal("rank", up_to(RANKS, width), 8, "Reflections; parameters grow with them."),)

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count a vector for each reflection."""
        return int(settings["rank"]) * site.in_features

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the rank."""
        return {"r": module["rank"]}
