"""IA3: one learned scale for each feature of an activation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange, Method
from autopeft.search_spaces.targets import placed_on, site_dimension, sites_of, target_pattern

#: No ``q``: without rotary positions, scaling queries and scaling keys are the same function
#: with the same gradient, so the two would be one configuration under two names.
SITES = ("k", "v", "attention_output", "ffn_in", "ffn_out")


@METHODS.register("ia3")
class Ia3(Method):
    """Liu et al. 2022: scale keys, values and the inner activation of the feed-forward layer.

    Outputs are scaled, except at ``ffn_out``, whose input is (section 3.3 of arXiv 2205.05638:
    the inner activation of the feed-forward layer).
    """

    name = "ia3"
    title = "IA3"
    family = "scaling"
    paper = "arXiv 2205.05638"
    is_mergeable = True
    # The paper uses 3e-3 for 1,000 steps; about a hundred steps need more, and scales start at 1,
    # so that rates of 1e-2 and above are small steps.
    learning_rate = LearningRateRange(low=1e-3, default=1e-2, high=1e-1)

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return the sites."""
        return (
            site_dimension(
                shape, SITES, default=("k", "v", "ffn_out"), help="Linear layers that get scales."
            ),
        )

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count the inputs of ``ffn_out`` and the outputs of every other site."""
        return sum(
            len(layers) * (site.in_features if site.site == "ffn_out" else site.out_features)
            for site, layers in placed_on(shape, module)
        )

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of ``peft.IA3Config``."""
        sites = sites_of(module)
        # An empty list, not None: None would ask PEFT for its own table of feed-forward names.
        inputs: str | list[str] = []
        if "ffn_out" in sites:
            inputs = target_pattern(shape, module.layers, ("ffn_out",))
        return {
            "peft_type": "IA3",
            "target_modules": target_pattern(shape, module.layers, sites),
            "feedforward_modules": inputs,
        }
