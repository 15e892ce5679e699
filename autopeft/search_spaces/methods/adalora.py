"""AdaLoRA: LoRA as a singular value decomposition whose ranks are pruned by importance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import PerSite, ordinal, plain_number, rank_dimension

RANKS = (2, 4, 8, 16, 32)
ALPHA_RATIOS = (0.5, 1.0, 2.0, 4.0)


@METHODS.register("adalora")
class Adalora(PerSite):
    """Zhang et al. 2023: ``B E A`` starts at 1.5 times the rank and is pruned to it on average.

    The budget shrinks by the cubic schedule of equation 12 of arXiv 2303.10512; see
    ``workers/modules/adalora.py`` for the importance and the deviations.
    """

    name = "adalora"
    title = "AdaLoRA"
    family = "low-rank"
    paper = "arXiv 2303.10512"
    needs_bare_layers = True  # PEFT refuses it where another adapter is there already
    exclusive = frozenset({"LoRA layers"})  # PEFT keeps them in one kind of layer
    peft_type = "ADALORA"
    module_file = "autopeft.workers.modules.adalora"
    frozen_parameters = ("ranknum",)  # never trained, though a layer without numbers asks for it
    supports_conv1d = True
    supports_quantized = True
    is_mergeable = True
    # The paper trains at 5e-4 to 2e-3 for thousands of steps, above LoRA: the update is scaled
    # by alpha over the rank and passes a diagonal that starts at zero.
    learning_rate = LearningRateRange(low=5e-4, default=5e-3, high=3e-2)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return the rank aimed at and the scaling."""
        return (
            rank_dimension(sites, RANKS, 8, "Mean rank at the end; it starts at 1.5 times that."),
            ordinal("alpha_ratio", ALPHA_RATIOS, 2.0, "Alpha as a multiple of the first rank."),
        )

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count the factors and the diagonal at the first rank: pruned values stay as zeros."""
        return first_rank(settings) * (site.in_features + site.out_features + 1)

    def saved(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count also two moving averages of each triplet's importance."""
        return self.count(site, settings) + 2 * first_rank(settings)

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return both ranks and alpha; the schedule is not PEFT's, so its steps stay open."""
        settings: Mapping[str, Any] = module.as_dict()
        first = first_rank(settings)
        return {
            "init_r": first,
            "target_r": settings["rank"],
            "lora_alpha": plain_number(first * settings["alpha_ratio"]),
            "total_step": 1,
            "orth_reg_weight": 0.0,
        }

    def settings_from_peft(self, shape: ModelShape, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the settings, the first rank among them."""
        first = config["init_r"]
        return {
            "rank": config["target_r"],
            "first_rank": first,
            "alpha_ratio": config["lora_alpha"] / first,
        }


def first_rank(settings: Mapping[str, Any]) -> int:
    """Return the rank a matrix starts with: 1.5 times the one aimed at, as in the paper.

    A published adapter may say another one (``first_rank``).
    """
    rank = int(settings["rank"])
    return int(settings.get("first_rank", rank + rank // 2))
