"""LoRA: a low-rank update beside each adapted linear layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Module, Setting
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange, Method
from autopeft.search_spaces.targets import (
    SITE_NAMES,
    all_linear,
    placed_on,
    site_dimension,
    sites_of,
    target_pattern,
)

RANKS = (1, 2, 4, 8, 16, 32, 64)
ALPHA_RATIOS = (0.5, 1.0, 2.0, 4.0)


@METHODS.register("lora")
class Lora(Method):
    """Hu et al. 2022, with DoRA (Liu et al. 2024) and rank-stabilised scaling (Kalajdzievski 2023).

    The update ``B A`` is scaled by ``alpha_ratio`` (alpha over rank), or under rsLoRA by
    ``alpha_ratio * sqrt(rank)`` (equation 5 of arXiv 2312.03732). DoRA adds one magnitude per
    output feature (equation 5 of arXiv 2402.09353).
    """

    name = "lora"
    title = "LoRA"
    family = "low-rank"
    paper = "arXiv 2106.09685"
    is_mergeable = True
    # Rests on common practice for encoders (1e-4 to 2e-3 over thousands of steps), shifted up
    # because a search trains for about a hundred steps.
    learning_rate = LearningRateRange(low=2e-4, default=2e-3, high=1e-2)

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return rank, scaling, sites and the two variants; ranks above the width are left out."""
        widest = min((min(site.in_features, site.out_features) for site in shape.sites), default=0)
        ranks = tuple(rank for rank in RANKS if rank <= widest)
        return (
            Dimension(
                name="rank",
                kind="ordinal",
                values=ranks,
                default=8 if 8 in ranks else max(ranks, default=8),
                help="Rank of the update; parameters grow with it.",
            ),
            Dimension(
                name="alpha_ratio",
                kind="ordinal",
                values=ALPHA_RATIOS,
                default=2.0,
                help="LoRA alpha as a multiple of the rank: how strongly the update counts.",
            ),
            site_dimension(
                shape,
                SITE_NAMES,
                default=all_linear(shape),
                help="Linear layers that get an update.",
            ),
            Dimension(
                name="dora",
                kind="categorical",
                values=(False, True),
                default=False,
                help="DoRA: learn magnitude and direction apart; slower and larger in memory.",
            ),
            Dimension(
                name="rslora",
                kind="categorical",
                values=(False, True),
                default=False,
                help="Rank-stabilised scaling: alpha over the square root of the rank.",
            ),
        )

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count ``rank * (in + out)`` a site and layer, and ``out`` more under DoRA."""
        settings = module.as_dict()
        rank, dora = settings["rank"], settings["dora"]
        assert isinstance(rank, int)
        count = 0
        for site, layers in placed_on(shape, module):
            each = rank * (site.in_features + site.out_features)
            count += (each + (site.out_features if dora else 0)) * len(layers)
        return count

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of ``peft.LoraConfig``."""
        settings = module.as_dict()
        rank, ratio = settings["rank"], settings["alpha_ratio"]
        assert isinstance(rank, int)
        assert isinstance(ratio, float)
        alpha = rank * ratio
        return {
            "peft_type": "LORA",
            "r": rank,
            "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "use_dora": settings["dora"],
            "use_rslora": settings["rslora"],
            "target_modules": target_pattern(shape, module.layers, sites_of(module)),
        }

    def canonical(self, settings: Mapping[str, Setting]) -> Mapping[str, Setting]:
        """Write rsLoRA as plain LoRA where both scale alike, e.g. at rank 1 or 4."""
        rank, ratio = settings["rank"], settings["alpha_ratio"]
        if settings["rslora"] and isinstance(rank, int) and isinstance(ratio, float):
            plain = ratio * math.sqrt(rank)
            if plain in ALPHA_RATIOS:
                return {**settings, "alpha_ratio": plain, "rslora": False}
        return settings
