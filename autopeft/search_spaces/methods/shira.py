"""SHiRA: train a few weights of each layer, chosen at random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import PerSite, narrowest, ordinal, up_to

RANKS = (1, 2, 4, 8, 16, 32, 64)


@METHODS.register("shira")
class Shira(PerSite):
    """Bhardwaj et al. 2024 (section 3 of arXiv 2406.13175), with the mask SHiRA-Rand.

    The size is given as the rank of the LoRA that has as many parameters. The file also holds
    row and column of each weight.
    """

    name = "shira"
    title = "SHiRA"
    family = "sparse"
    paper = "arXiv 2406.13175"
    needs_bare_layers = True  # PEFT refuses a layer that carries another adapter
    peft_type = "SHIRA"
    module_file = "autopeft.workers.modules.shira"
    supports_quantized = True
    is_mergeable = True
    same_fields: ClassVar[Mapping[str, str]] = {"rank": "r"}
    # The paper trains at LoRA's rates; single weights are not amplified by a second factor, so
    # they bear no more than LoRA's lower half.
    learning_rate = LearningRateRange(low=1e-4, default=1e-3, high=1e-2)

    def fits(self, shape: ModelShape, site: SiteShape) -> bool:
        """Leave out layers that are smaller than the LoRA of rank 1 is counted."""
        room = site.in_features * site.out_features
        return super().fits(shape, site) and room >= site.in_features + site.out_features

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return the rank."""
        ranks = up_to(RANKS, narrowest(sites) // 2)
        return (ordinal("rank", ranks, 8, "Rank of the LoRA with as many parameters."),)

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count the weights that train."""
        return int(settings["rank"]) * (site.in_features + site.out_features)

    def saved(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count also row and column of each."""
        return 3 * self.count(site, settings)

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the rank; the mask follows from a fixed seed."""
        return {"r": module["rank"], "random_seed": 0}
