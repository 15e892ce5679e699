"""C3A: the update as blocks of circular convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import PerSite, common_divisor, dividing, ordinal

BLOCK_SIZES = (8, 16, 32, 64, 128, 256, 512)


@METHODS.register("c3a")
class C3a(PerSite):
    """Chen et al. 2024 (equation 4 of arXiv 2407.19342): block-circular, computed by FFT.

    A block of ``b x b`` costs ``b`` parameters, so that they fall with the block size.
    """

    name = "c3a"
    title = "C3A"
    family = "spectral"
    paper = "arXiv 2407.19342"
    peft_type = "C3A"
    is_mergeable = True
    starts_as_base = False  # kernels start at Xavier's random numbers, as in the paper
    same_fields: ClassVar[Mapping[str, str]] = {"block_size": "block_size"}
    # The paper and PEFT's published run train at 1e-1 to 3e-1: kernels are divided by the block.
    learning_rate = LearningRateRange(low=1e-2, default=1e-1, high=1.0)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return the block size, which divides every width."""
        sizes = dividing(BLOCK_SIZES, common_divisor(sites))
        return (ordinal("block_size", sizes, 128, "Side of a block; parameters fall with it."),)

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count a kernel for each block."""
        return site.in_features * site.out_features // int(settings["block_size"])

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the block size."""
        return {"block_size": module["block_size"]}
