"""BOFT: rotations of small blocks in butterfly order, which mix all inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import PerSite, common_divisor, dividing, ordinal

BLOCK_SIZES = (2, 4, 8, 16)
FACTORS = (1, 2, 3, 4)


@METHODS.register("boft")
class Boft(PerSite):
    """Liu et al. 2024 (section 4 of arXiv 2311.06243): ``m`` butterfly factors of blocks ``b``.

    The output is scaled by one number a feature.
    """

    name = "boft"
    title = "BOFT"
    family = "orthogonal"
    paper = "arXiv 2311.06243"
    peft_type = "BOFT"
    supports_quantized = True
    is_mergeable = True
    # The paper trains at 1e-4 to 5e-4 for many epochs; shifted up as for OFT. The exact inverse
    # bears larger rotations.
    learning_rate = LearningRateRange(low=2e-4, default=2e-3, high=1e-2)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return block size and factors, as far as the butterflies fit every input width."""
        divisor = common_divisor(sites, outputs=False)
        factors = tuple(m for m in FACTORS if divisor and divisor % 2**m == 0)
        deepest = 2 ** (max(factors, default=1) - 1)
        sizes = tuple(
            size
            for size in dividing(BLOCK_SIZES, divisor)
            if divisor % (size * deepest) == 0 and (divisor // size) % 2 == 0
        )
        return (
            ordinal("block_size", sizes, 4, "Inputs that are rotated together."),
            ordinal("num_factors", factors, 1, "Butterfly factors; parameters grow with them."),
        )

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count whole blocks (their skew part alone matters) and the scales."""
        blocks = int(settings["num_factors"]) * site.in_features * int(settings["block_size"])
        return blocks + site.out_features

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return block size and factors."""
        return {
            "boft_block_size": module["block_size"],
            "boft_block_num": 0,
            "boft_n_butterfly_factor": module["num_factors"],
        }
