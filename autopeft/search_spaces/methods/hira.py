"""HiRA: the frozen weight times a low-rank matrix, element by element."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import PerSite, rank_dimension

RANKS = (1, 2, 4, 8, 16, 32, 64)


@METHODS.register("hira")
class Hira(PerSite):
    """Huang et al. 2025 (equation 3, ICLR 2025): ``W + W * (B A)``, an update of high rank."""

    name = "hira"
    title = "HiRA"
    family = "low-rank"
    paper = "openreview TwJrTz9cRS"
    peft_type = "HIRA"
    supports_conv1d = True
    supports_quantized = True
    is_mergeable = True
    same_fields: ClassVar[Mapping[str, str]] = {"rank": "r"}
    # The paper trains at 1e-3 where LoRA gets 1e-4 to 3e-4: the frozen weight, whose entries are
    # small, scales every gradient.
    learning_rate = LearningRateRange(low=1e-3, default=1e-2, high=1e-1)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return the rank."""
        return (rank_dimension(sites, RANKS, 16, "Rank of the factor; parameters grow with it."),)

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count as for LoRA."""
        return int(settings["rank"]) * (site.in_features + site.out_features)

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the rank."""
        return {"r": module["rank"]}
