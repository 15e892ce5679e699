"""LoRA: a low-rank update beside each adapted linear layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module, Setting
from autopeft.search_spaces.deploy import vllm_lora_values
from autopeft.search_spaces.method import METHODS, Deploy, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import (
    PerSite,
    categorical,
    ordinal,
    plain_number,
    rank_dimension,
)

RANKS = (1, 2, 4, 8, 16, 32, 64)
ALPHA_RATIOS = (0.5, 1.0, 2.0, 4.0)


@METHODS.register("lora")
class Lora(PerSite):
    """Hu et al. 2022, with DoRA (Liu et al. 2024) and rank-stabilised scaling (Kalajdzievski 2023).

    The update ``B A`` is scaled by ``alpha_ratio`` (alpha over rank), or under rsLoRA by
    ``alpha_ratio * sqrt(rank)`` (equation 5 of arXiv 2312.03732). DoRA adds one magnitude per
    output feature (equation 5 of arXiv 2402.09353).
    """

    name = "lora"
    title = "LoRA"
    family = "low-rank"
    paper = "arXiv 2106.09685"
    exclusive = frozenset({"LoRA layers"})  # PEFT keeps them in one kind of layer
    peft_type = "LORA"
    supports_conv1d = True
    supports_quantized = True
    is_mergeable = True
    # Rests on common practice for encoders (1e-4 to 2e-3 over thousands of steps), shifted up
    # because a search trains for about a hundred steps.
    learning_rate = LearningRateRange(low=2e-4, default=2e-3, high=1e-2)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return rank, scaling and the two variants; ranks above the width are left out."""
        return (
            rank_dimension(sites, RANKS, 8, "Rank of the update; parameters grow with it."),
            ordinal(
                "alpha_ratio",
                ALPHA_RATIOS,
                2.0,
                "LoRA alpha as a multiple of the rank: how strongly the update counts.",
            ),
            categorical(
                "dora",
                (False, True),
                False,
                "DoRA: learn magnitude and direction apart; slower and larger in memory.",
            ),
            categorical(
                "rslora",
                (False, True),
                False,
                "Rank-stabilised scaling: alpha over the square root of the rank.",
            ),
        )

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count ``rank * (in + out)``, and ``out`` more under DoRA."""
        each = int(settings["rank"]) * (site.in_features + site.out_features)
        return each + (site.out_features if settings["dora"] else 0)

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return rank, alpha and variants."""
        settings: Mapping[str, Any] = module.as_dict()
        return {
            "r": settings["rank"],
            "lora_alpha": plain_number(settings["rank"] * settings["alpha_ratio"]),
            "lora_dropout": 0.0,
            "bias": "none",
            "use_dora": settings["dora"],
            "use_rslora": settings["rslora"],
        }

    def settings_from_peft(
        self, shape: ModelShape, config: Mapping[str, Any]
    ) -> Mapping[str, Setting]:
        """Return the settings."""
        return {
            "rank": config["r"],
            "alpha_ratio": config["lora_alpha"] / config["r"],
            "dora": bool(config.get("use_dora", False)),
            "rslora": bool(config.get("use_rslora", False)),
        }

    def deploy_values(self, shape: ModelShape, deploy: Deploy) -> Mapping[str, tuple[Any, ...]]:
        """Leave out what vLLM's loader refuses."""
        if deploy == "vllm":
            return vllm_lora_values(shape)
        return super().deploy_values(shape, deploy)

    def canonical(self, settings: Mapping[str, Setting]) -> Mapping[str, Setting]:
        """Write rsLoRA as plain LoRA where both scale alike, e.g. at rank 1 or 4."""
        rank, ratio = settings["rank"], settings["alpha_ratio"]
        if settings["rslora"] and isinstance(rank, int) and isinstance(ratio, float):
            plain = ratio * math.sqrt(rank)
            if plain in ALPHA_RATIOS:
                return {**settings, "alpha_ratio": plain, "rslora": False}
        return settings
