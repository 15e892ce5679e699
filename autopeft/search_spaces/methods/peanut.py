"""PEANuT: the update as a small network applied to the weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import PerSite, categorical, ordinal, rank_dimension

RANKS = (1, 2, 4, 8, 16, 32)
DEPTHS = (0, 1, 2)
SCALINGS = (1.0, 4.0, 16.0, 32.0)
ACTIVATIONS = ("relu", "gelu", "silu", "tanh")


@METHODS.register("peanut")
class Peanut(PerSite):
    """Zhong et al. 2024 (section 3 of arXiv 2410.01870): ``f(W)`` with a bottleneck of ``r``."""

    name = "peanut"
    title = "PEANuT"
    family = "nonlinear"
    paper = "arXiv 2410.01870"
    peft_type = "PEANUT"
    is_mergeable = True
    same_fields: ClassVar[Mapping[str, str]] = {
        "rank": "r",
        "depth": "depth",
        "activation": "act_fn",
        "scaling": "scaling",
    }
    # PEFT's published run learned well at 1e-4 with a scaling of 32; shifted up as for LoRA.
    learning_rate = LearningRateRange(low=2e-4, default=2e-3, high=2e-2)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return bottleneck, depth, activation and scaling."""
        return (
            rank_dimension(sites, RANKS, 8, "Width of the network; parameters grow with it."),
            ordinal("depth", DEPTHS, 0, "Pairs of inner layers."),
            categorical("activation", ACTIVATIONS, "relu", "Activation between the layers."),
            ordinal("scaling", SCALINGS, 4.0, "Factor of the update."),
        )

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count both outer layers, and the inner ones."""
        rank = int(settings["rank"])
        return 2 * rank * site.out_features + 2 * int(settings["depth"]) * rank * rank

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return bottleneck, depth, activation and scaling."""
        settings = module.as_dict()
        return {field: settings[name] for name, field in self.same_fields.items()}
