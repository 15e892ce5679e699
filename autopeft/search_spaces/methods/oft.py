"""OFT: rotate the inputs of a layer, block by block."""

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

BLOCK_SIZES = (2, 4, 8, 16, 32, 64, 128)


@METHODS.register("oft")
class Oft(PerSite):
    """Qiu et al. 2023 (equation 3 of arXiv 2306.07280), block-diagonal, by the Cayley transform.

    The transform's inverse is a Neumann series of five terms (arXiv 2506.19847); ``coft`` keeps
    the rotations close to the identity; shared blocks rotate every stretch of inputs alike.
    """

    name = "oft"
    title = "OFT"
    family = "orthogonal"
    paper = "arXiv 2306.07280"
    peft_type = "OFT"
    supports_quantized = True
    is_mergeable = True
    # PEFT's published run uses LoRA's 1e-4; the papers go up to 4e-4. Shifted up as for LoRA;
    # the Neumann series diverges for large rotations, so the upper end is lower.
    learning_rate = LearningRateRange(low=1e-4, default=1e-3, high=5e-3)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return block size and variants; blocks divide every input width."""
        sizes = dividing(BLOCK_SIZES, common_divisor(sites, outputs=False))
        return (
            ordinal("block_size", sizes, 32, "Inputs that are rotated together."),
            categorical("coft", (False, True), False, "Keep rotations close to the identity."),
            categorical("block_share", (False, True), False, "One rotation for all blocks."),
        )

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count the upper triangle of each block."""
        size = int(settings["block_size"])
        blocks = 1 if settings["block_share"] else site.in_features // size
        return blocks * (size * (size - 1) // 2)

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return block size and variants."""
        settings = module.as_dict()
        return {
            "r": 0,
            "oft_block_size": settings["block_size"],
            "coft": settings["coft"],
            "block_share": settings["block_share"],
        }

    def settings_from_peft(self, shape: ModelShape, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the settings."""
        return {
            "block_size": self.normalised(shape, config)["oft_block_size"],
            "coft": config["coft"],
            "block_share": config["block_share"],
        }

    def normalised(self, shape: ModelShape, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Write a number of blocks as their size."""
        if not config.get("r"):
            return config
        widths = {site.in_features for site, _ in self.placed_by(shape, config)}
        if len(widths) != 1:
            raise ValueError("it counts blocks on layers of several widths")
        return {**config, "r": 0, "oft_block_size": widths.pop() // int(config["r"])}
