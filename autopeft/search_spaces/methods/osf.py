"""OSF: train the weight in its small singular directions, keep the large ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import PerSite, ordinal

PARTS = (0.5, 0.75, 0.875, 0.9375)


@METHODS.register("osf")
class Osf(PerSite):
    """Nayak et al. 2025 (section 3 of arXiv 2504.07097): gradients stay orthogonal to what is kept.

    Made for learning without forgetting; it trains a large part of each weight.
    """

    name = "osf"
    title = "OSF"
    family = "subspace"
    paper = "arXiv 2504.07097"
    peft_type = "OSF"
    is_mergeable = True
    same_fields: ClassVar[Mapping[str, str]] = {"kept": "effective_rank"}
    # Close to full fine-tuning, whose rates are 1e-5 to 1e-4; about a hundred steps need more.
    learning_rate = LearningRateRange(low=1e-5, default=2e-4, high=2e-3)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return the part of the singular directions that is kept."""
        width = min((min(s.in_features, s.out_features) for s in sites), default=0)
        parts = tuple(part for part in PARTS if 0 < int(width * part) < width)
        return (ordinal("kept", parts, 0.875, "Part of the directions that stays frozen."),)

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count the factors of the other directions."""
        width = min(site.in_features, site.out_features)
        trained = width - int(width * float(settings["kept"]))
        return trained * (site.in_features + site.out_features + 1)

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the part that is kept."""
        return {"effective_rank": module["kept"]}
