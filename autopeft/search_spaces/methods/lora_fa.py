"""LoRA-FA: LoRA whose A stays as it was drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.deploy import vllm_lora_values
from autopeft.search_spaces.method import METHODS, Deploy, Dimension, LearningRateRange
from autopeft.search_spaces.methods._lora_type import LoraType
from autopeft.search_spaces.methods._per_site import ordinal, plain_number, rank_dimension

RANKS = (1, 2, 4, 8, 16, 32, 64, 128)
ALPHA_RATIOS = (0.5, 1.0, 2.0, 4.0)


@METHODS.register("lora-fa")
class LoraFa(LoraType):
    """Zhang et al. 2023 (section 3 of arXiv 2308.03303): only B trains.

    Half the parameters and, since A's input need not be kept, less memory than LoRA. The
    paper's correction of B's gradient is left to the optimiser, which is AdamW.
    """

    name = "lora-fa"
    title = "LoRA-FA"
    family = "low-rank"
    paper = "arXiv 2308.03303"
    frozen_parameters = ("lora_A",)
    supports_conv1d = True
    supports_quantized = True
    supports_parameters = True
    # LoRA's range: B's gradients are LoRA's own at the first step.
    learning_rate = LearningRateRange(low=2e-4, default=3e-3, high=2e-2)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return rank and scaling."""
        return (
            rank_dimension(sites, RANKS, 16, "Rank of the update; parameters grow with it."),
            ordinal("alpha_ratio", ALPHA_RATIOS, 2.0, "Alpha as a multiple of the rank."),
        )

    def fits(self, shape: ModelShape, site: SiteShape) -> bool:
        """Refuse stacked experts.

        PEFT takes their inputs for outputs where a model does not mark its weights as
        transposed (Llama 4), so that which factor is B does not follow from shapes.
        """
        return site.kind != "parameter" and super().fits(shape, site)

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count B."""
        return int(settings["rank"]) * site.out_features

    def saved(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count A and B."""
        return int(settings["rank"]) * (site.in_features + site.out_features)

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return rank and alpha."""
        settings: Mapping[str, Any] = module.as_dict()
        alpha = plain_number(settings["rank"] * settings["alpha_ratio"])
        return {"r": settings["rank"], "lora_alpha": alpha, "lora_dropout": 0.0, "bias": "none"}

    def deploy_values(self, shape: ModelShape, deploy: Deploy) -> Mapping[str, tuple[Any, ...]]:
        """Leave out what vLLM's loader refuses."""
        if deploy == "vllm":
            return self.layers_only(shape, vllm_lora_values(shape))
        return super().deploy_values(shape, deploy)

    @classmethod
    def from_peft_config(cls, shape: ModelShape, config: Mapping[str, Any]) -> Module:
        """Refuse: no config says that A stays as it is, so each is read as LoRA."""
        raise ValueError("its config is LoRA's own")
