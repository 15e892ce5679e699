"""LoRA: a low-rank update beside each adapted linear layer."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module, Setting
from autopeft.search_spaces.deploy import vllm_lora_values
from autopeft.search_spaces.method import METHODS, Deploy, Dimension, LearningRateRange
from autopeft.search_spaces.methods._lora_type import LoraType, is_parameter
from autopeft.search_spaces.methods._per_site import (
    categorical,
    ordinal,
    plain_number,
    rank_dimension,
)
from autopeft.search_spaces.targets import PARAMETER_NAMES

RANKS = (1, 2, 4, 8, 16, 32, 64)
ALPHA_RATIOS = (0.5, 1.0, 2.0, 4.0)


@METHODS.register("lora")
class Lora(LoraType):
    """Hu et al. 2022, with DoRA (Liu et al. 2024) and rank-stabilised scaling (Kalajdzievski 2023).

    The update ``B A`` is scaled by ``alpha_ratio`` (alpha over rank), or under rsLoRA by
    ``alpha_ratio * sqrt(rank)`` (equation 5 of arXiv 2312.03732). DoRA adds one magnitude per
    output feature (equation 5 of arXiv 2402.09353).
    """

    name = "lora"
    title = "LoRA"
    family = "low-rank"
    paper = "arXiv 2106.09685"
    supports_conv1d = True
    supports_quantized = True
    supports_parameters = True
    trains_experts = True
    module_file = "autopeft.workers.modules.lora"
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
                (False,) if _takes_layers_as_parameters(shape, sites) else (False, True),
                False,
                "DoRA: learn magnitude and direction apart; slower, larger, not with experts.",
            ),
            categorical(
                "rslora",
                (False, True),
                False,
                "Rank-stabilised scaling: alpha over the square root of the rank.",
            ),
        )

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count ``rank * (in + out)`` a layer or expert, and ``out`` more under DoRA."""
        each = int(settings["rank"]) * (site.in_features + site.out_features)
        return each + (site.out_features if _has_dora(settings) else 0)

    def num_lora_a(self, shape: ModelShape, module: Module) -> int:
        """Sum ``rank * in`` over what PEFT does not take as parameters."""
        return self._summed(shape, module, functools.partial(_first_factor, shape))

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return rank, alpha and variants."""
        settings: Mapping[str, Any] = module.as_dict()
        return {
            "r": settings["rank"],
            "lora_alpha": plain_number(settings["rank"] * settings["alpha_ratio"]),
            "lora_dropout": 0.0,
            "bias": "none",
            "use_dora": _has_dora(settings),
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
            return self.layers_only(shape, vllm_lora_values(shape))
        return super().deploy_values(shape, deploy)

    def canonical(self, settings: Mapping[str, Setting]) -> Mapping[str, Setting]:
        """Write rsLoRA as plain LoRA where both scale alike, and DoRA where PEFT has none."""
        settings = {**settings, "dora": _has_dora(settings)}
        rank, ratio = settings["rank"], settings["alpha_ratio"]
        if settings["rslora"] and isinstance(rank, int) and isinstance(ratio, float):
            plain = ratio * math.sqrt(rank)
            if plain in ALPHA_RATIOS:
                return {**settings, "alpha_ratio": plain, "rslora": False}
        return settings

    def remarks(self, shape: ModelShape) -> tuple[str, ...]:
        """Say where DoRA is left out."""
        found = super().remarks(shape)
        if _takes_layers_as_parameters(shape, self.offered(shape)):
            found += ("DoRA left out: PEFT has none for layers that it takes as parameters",)
        elif any(site.kind == "parameter" for site in self.offered(shape)):
            found += ("no DoRA where experts are among the sites: PEFT has none for them",)
        return found


def _has_dora(settings: Mapping[str, Any]) -> bool:
    """Tell whether DoRA is on: PEFT has none in an adapter of stacked experts."""
    return bool(settings["dora"]) and not set(settings.get("sites", ())) & set(PARAMETER_NAMES)


def _first_factor(shape: ModelShape, site: SiteShape, settings: Mapping[str, Any]) -> int:
    return 0 if is_parameter(shape, site) else int(settings["rank"]) * site.in_features


def _takes_layers_as_parameters(shape: ModelShape, sites: tuple[SiteShape, ...]) -> bool:
    return any(site.kind == "linear" and is_parameter(shape, site) for site in sites)
