"""VeRA: fixed random projections shared by all layers, trained vectors between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import PerSite, ordinal
from autopeft.search_spaces.targets import placed_on

RANKS = (16, 32, 64, 128, 256, 512)


@METHODS.register("vera")
class Vera(PerSite):
    """Kopiczko et al. 2024 (equation 2 of arXiv 2310.11454): ``diag(b) B diag(d) A``.

    A and B are drawn once for the widest layers; the file holds them, so that no other random
    generator changes them.
    """

    name = "vera"
    title = "VeRA"
    family = "shared projections"
    paper = "arXiv 2310.11454"
    peft_type = "VERA"
    supports_conv1d = True
    supports_quantized = True
    is_mergeable = True
    is_combinable = False
    same_fields: ClassVar[Mapping[str, str]] = {"rank": "r"}
    # The paper trains at 1e-3 to 1e-2, ten times LoRA: vectors see small gradients.
    learning_rate = LearningRateRange(low=1e-3, default=1e-2, high=1e-1)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return the rank; it may exceed the width, parameters hardly grow with it."""
        return (ordinal("rank", RANKS, 256, "Rows of the shared projections."),)

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count both vectors."""
        return site.out_features + int(settings["rank"])

    def shared_saved(self, shape: ModelShape, module: Module) -> int:
        """Count the projections, as wide as the widest layers."""
        placed = [site for site, _ in placed_on(shape, module)]
        rank = module["rank"]
        assert isinstance(rank, int)
        return rank * (
            max(site.in_features for site in placed) + max(site.out_features for site in placed)
        )

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the rank."""
        return {"r": module["rank"]}
