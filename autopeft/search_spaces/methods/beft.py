"""BEFT: train an offset of the bias vectors and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import PerSite

#: No ``k``: an offset of all keys shifts every attention score of a query alike and the softmax
#: cancels it, so it would add parameters that never learn.
SITES = ("q", "v", "attention_output", "ffn_gate", "ffn_in", "ffn_out")


@METHODS.register("beft")
class Beft(PerSite):
    """Bias-only tuning: BitFit (arXiv 2106.10199) by site, as PEFT's BEFT offers it.

    Only sites whose linear layer has a bias are offered: PEFT cannot merge the others.
    """

    name = "beft"
    title = "BEFT (biases)"
    family = "bias"
    paper = "arXiv 2509.15974"
    peft_type = "BEFT"
    is_mergeable = True
    default_sites = SITES
    # BitFit reports 1e-4 to 1e-2 over several epochs and its best results at the upper end for
    # small sets; about a hundred steps on vectors that start at 0 need more.
    learning_rate = LearningRateRange(low=1e-3, default=1e-2, high=1e-1)

    def fits(self, shape: ModelShape, site: SiteShape) -> bool:
        """Offer linear layers with a bias that is not without effect."""
        return site.site in SITES and site.has_bias and super().fits(shape, site)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return nothing: sites are all there is to choose."""
        return ()

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count one offset for each output feature."""
        return site.out_features

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return nothing beside the targets."""
        return {}

    def unavailable(self, shape: ModelShape) -> str | None:
        """Refuse models whose linear layers have no biases."""
        if not any(site.has_bias for site in shape.sites):
            return f"the linear layers of {shape.model_type} have no biases"
        return super().unavailable(shape)
