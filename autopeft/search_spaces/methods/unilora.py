"""Uni-LoRA: one trained vector, spread over the entries of every LoRA matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import PerSite, narrowest, ordinal, up_to
from autopeft.search_spaces.targets import placed_on

LENGTHS = (64, 256, 1024, 4096, 16384, 65536)
RANKS = (2, 4, 8, 16)


@METHODS.register("unilora")
class Unilora(PerSite):
    """Li et al. 2025 (section 3 of arXiv 2506.00799): an isometric random projection.

    Each entry of A and B repeats one entry of the vector, scaled by how often it is repeated.
    """

    name = "unilora"
    title = "Uni-LoRA"
    family = "shared projections"
    paper = "arXiv 2506.00799"
    peft_type = "UNILORA"
    supports_conv1d = True
    is_mergeable = True
    is_combinable = False
    starts_as_base = False  # both factors start at the random vector, close to nothing
    same_fields: ClassVar[Mapping[str, str]] = {"length": "theta_d_length", "rank": "r"}
    # The paper trains the vector at 1e-3 to 5e-3; each number stands for many and starts small.
    learning_rate = LearningRateRange(low=1e-3, default=1e-2, high=1e-1)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return vector length and rank; the vector is no longer than what one layer repeats."""
        ranks = up_to(RANKS, narrowest(sites))
        room = min((site.in_features + site.out_features for site in sites), default=0)
        lengths = up_to(LENGTHS, room * min(ranks, default=0))
        return (
            ordinal("length", lengths, 1024, "Numbers in the trained vector."),
            ordinal("rank", ranks, 4, "Rank of the update."),
        )

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Return 0: the vector stands beside the layers."""
        return 0

    def shared(self, shape: ModelShape, module: Module) -> int:
        """Count the vector."""
        length = module["length"]
        assert isinstance(length, int)
        return length if any(placed_on(shape, module)) else 0

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return length and rank."""
        return {"theta_d_length": module["length"], "r": module["rank"]}
