"""PVeRA: VeRA whose inner vector is drawn from a learned distribution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import PerSite, ordinal
from autopeft.search_spaces.targets import placed_on

RANKS = (16, 32, 64, 128, 256)


@METHODS.register("pvera")
class Pvera(PerSite):
    """VeRA with a mean and a variance for each inner feature (arXiv 2512.07703).

    Training samples by the reparametrisation trick, evaluation takes the mean.
    """

    name = "pvera"
    title = "PVeRA"
    family = "shared projections"
    paper = "arXiv 2512.07703"
    peft_type = "PVERA"
    supports_conv1d = True
    supports_quantized = True
    is_mergeable = True
    is_combinable = False
    same_fields: ClassVar[Mapping[str, str]] = {"rank": "r"}
    # PEFT's published run works at 3e-3 for 5,000 steps; shifted up as for VeRA.
    learning_rate = LearningRateRange(low=1e-3, default=1e-2, high=1e-1)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return the rank."""
        return (ordinal("rank", RANKS, 64, "Rows of the shared projections."),)

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count the outer vector, and mean and variance of the inner one."""
        return site.out_features + 2 * int(settings["rank"])

    def shared_saved(self, shape: ModelShape, module: Module) -> int:
        """Count the projections, as wide as the widest layers."""
        placed = [site for site, _ in placed_on(shape, module)]
        rank = module["rank"]
        assert isinstance(rank, int)
        return rank * (
            2 * max(site.in_features for site in placed) + max(site.out_features for site in placed)
        )

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the rank."""
        return {"r": module["rank"]}
