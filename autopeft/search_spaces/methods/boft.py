"""BOFT: rotations of small blocks of the inputs, and a scale for every output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import PerSite, common_divisor, dividing, ordinal

BLOCK_SIZES = (2, 4, 8, 16, 32)


@METHODS.register("boft")
class Boft(PerSite):
    """Liu et al. 2024 (section 4 of arXiv 2311.06243) with one factor: blocks, exactly inverted.

    More than one butterfly factor takes a CUDA extension that PEFT compiles when a layer is
    made, and drops without a trace where it cannot: the same adapter would be another one
    elsewhere. Beside OFT's blocks the output is scaled by one number a feature.
    """

    name = "boft"
    title = "BOFT"
    family = "orthogonal"
    paper = "arXiv 2311.06243"
    peft_type = "BOFT"
    module_file = "autopeft.workers.modules.boft"
    supports_quantized = True
    is_mergeable = True
    # The paper trains at 1e-4 to 5e-4 for many epochs; shifted up as for OFT. The exact inverse
    # bears larger rotations.
    learning_rate = LearningRateRange(low=2e-4, default=2e-3, high=1e-2)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return the block size, which divides every input width."""
        sizes = dividing(BLOCK_SIZES, common_divisor(sites, outputs=False))
        return (ordinal("block_size", sizes, 4, "Inputs that are rotated together."),)

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count whole blocks (their skew part alone matters) and the scales."""
        return site.in_features * int(settings["block_size"]) + site.out_features

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the block size."""
        return {
            "boft_block_size": module["block_size"],
            "boft_block_num": 0,
            "boft_n_butterfly_factor": 1,
        }

    def settings_from_peft(self, shape: ModelShape, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the block size."""
        return {"block_size": config["boft_block_size"]}
