"""BEFT: train an offset of the bias vectors and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange, Method
from autopeft.search_spaces.targets import placed_on, site_dimension, sites_of, target_pattern

#: No ``k``: an offset of all keys shifts every attention score of a query alike and the softmax
#: cancels it, so it would add parameters that never learn.
SITES = ("q", "v", "attention_output", "ffn_in", "ffn_out")


@METHODS.register("beft")
class Beft(Method):
    """Bias-only tuning: BitFit (arXiv 2106.10199) by site, as PEFT's BEFT offers it.

    Only sites whose linear layer has a bias are offered: PEFT cannot merge the others.
    """

    name = "beft"
    title = "BEFT (bias only)"
    family = "bias"
    paper = "arXiv 2509.15974"
    is_mergeable = True
    # BitFit reports 1e-4 to 1e-2 over several epochs and its best results at the upper end for
    # small sets; about a hundred steps on vectors that start at 0 need more.
    learning_rate = LearningRateRange(low=1e-3, default=1e-2, high=1e-1)

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return the sites."""
        with_bias = [site.site for site in shape.sites if site.has_bias and site.site in SITES]
        return (
            site_dimension(
                shape, with_bias, default=SITES, help="Linear layers whose bias is trained."
            ),
        )

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count one offset for each output feature."""
        return sum(site.out_features * len(layers) for site, layers in placed_on(shape, module))

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of ``peft.BeftConfig``."""
        return {
            "peft_type": "BEFT",
            "target_modules": target_pattern(shape, module.layers, sites_of(module)),
        }
