"""MiSS: one shared shard of the weight, repeated over the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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

RANKS = (1, 2, 4, 8, 16, 32, 64)


@METHODS.register("miss")
class Miss(PerSite):
    """Kang and Yin 2024 (section 3 of arXiv 2409.15371): inputs are summed in ``r`` groups.

    The variant ``bat`` (block affine transformation) multiplies blocks of the weight by a
    trained block instead, which makes the update depend on the weight.
    """

    name = "miss"
    title = "MiSS"
    family = "low-rank"
    paper = "arXiv 2409.15371"
    needs_bare_layers = True  # the variant "bat" multiplies the weight itself
    peft_type = "MISS"
    supports_quantized = True
    is_mergeable = True
    # PEFT's published runs use LoRA's 1e-4; shifted up as for LoRA here. The shard starts at
    # zero and feels the sum of many inputs, so the upper end is lower.
    learning_rate = LearningRateRange(low=1e-4, default=1e-3, high=1e-2)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return rank and variant; ranks divide every width, which ``bat`` needs."""
        return (
            ordinal(
                "rank",
                dividing(RANKS, common_divisor(sites)),
                8,
                "Rows of the shard; parameters grow with it.",
            ),
            categorical(
                "variant", ("miss", "bat"), "miss", "Shared shard, or block transformation."
            ),
        )

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count the shard."""
        return int(settings["rank"]) * site.out_features

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return rank and variant."""
        variant = "bat" if module["variant"] == "bat" else True
        return {"r": module["rank"], "init_weights": variant}

    def settings_from_peft(self, shape: ModelShape, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the settings."""
        variant = "bat" if config["init_weights"] == "bat" else "miss"
        return {"rank": config["r"], "variant": variant}
