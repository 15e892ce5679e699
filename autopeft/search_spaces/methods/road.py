"""RoAd: rotate pairs of outputs and scale them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import (
    PerSite,
    categorical,
    common_divisor,
    dividing,
    ordinal,
)

GROUP_SIZES = (2, 8, 32, 64, 128)
_PER_OUTPUT = {"road_1": 1, "road_2": 2, "road_4": 4}


@METHODS.register("road")
class Road(PerSite):
    """Liao and Monz 2024 (equation 3 of arXiv 2409.00119): one, two or four angles a pair."""

    name = "road"
    title = "RoAd"
    family = "orthogonal"
    paper = "arXiv 2409.00119"
    peft_type = "ROAD"
    supports_quantized = True
    is_mergeable = True
    same_fields: ClassVar[Mapping[str, str]] = {"variant": "variant", "group_size": "group_size"}
    # The paper trains at 1e-3 to 6e-3, PEFT's published run at 1e-3 for 5,000 steps.
    learning_rate = LearningRateRange(low=1e-3, default=1e-2, high=5e-2)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return the variant, and which outputs are paired."""
        sizes = dividing(GROUP_SIZES, common_divisor(sites, inputs=False))
        return (
            categorical("variant", tuple(_PER_OUTPUT), "road_1", "How much the pairs share."),
            ordinal("group_size", sizes, 64, "Outputs whose halves are paired."),
        )

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count an angle and a scale for each pair, output, or both of them."""
        return _PER_OUTPUT[settings["variant"]] * site.out_features

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return variant and group size."""
        return {"variant": module["variant"], "group_size": module["group_size"]}
