"""GLoRA: weight and bias scaled and shifted at once, LoRA among the choices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import PerSite, categorical, rank_dimension

RANKS = (1, 2, 4, 8, 16, 32)


@METHODS.register("glora")
class Glora(PerSite):
    """Chavan et al. 2023 (equation 8 of arXiv 2306.07967): ``W + W A + B``, ``b + W C + D b + E``.

    ``weight`` says what A and B are, ``prompt`` what C is, ``bias`` what D and E are. The last
    three exist only where the linear layer has a bias; the file holds zeros for what is absent.
    """

    name = "glora"
    title = "GLoRA"
    family = "low-rank"
    paper = "arXiv 2306.07967"
    # PEFT computes from the weight and takes the layer's own output away again, with whatever an
    # adapter inside it added.
    needs_bare_layers = True
    peft_type = "GLORA"
    is_mergeable = True
    same_fields: ClassVar[Mapping[str, str]] = {
        "rank": "r",
        "weight": "config_A_B",
        "prompt": "config_C",
        "bias": "config_D_E",
    }
    # The paper trains at 1e-4 to 5e-4 for 100 epochs, PEFT's published run at 1e-4; shifted up
    # as for LoRA here. A scales the weight itself, which large rates upset.
    learning_rate = LearningRateRange(low=1e-4, default=1e-3, high=1e-2)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return rank and the form of each path."""
        dimensions = [
            rank_dimension(sites, RANKS, 4, "Rank of the paths that are low-rank."),
            categorical("weight", ("lora", "vector", "constant"), "lora", "Form of A and B."),
        ]
        if any(site.has_bias for site in sites):
            dimensions += [
                categorical("prompt", ("lora", "vector", "none"), "lora", "Form of C."),
                categorical("bias", ("vector", "constant", "none"), "constant", "Form of D and E."),
            ]
        return tuple(dimensions)

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count the five paths."""
        rank = int(settings["rank"])
        weight = {
            "lora": rank * (site.in_features + site.out_features),
            "vector": site.out_features,
            "constant": 1,
            "none": 0,
        }[settings["weight"]]
        if not site.has_bias:
            return 2 * weight
        prompt = {"lora": rank * (site.in_features + 1), "vector": site.in_features, "none": 0}
        bias = {"vector": site.out_features, "constant": 1, "none": 0}
        return 2 * (weight + bias[settings["bias"]]) + prompt[settings["prompt"]]

    def saved(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count also the zeros that stand for an absent path."""
        zeros = 0
        if settings["weight"] == "none":
            zeros += 2 * site.in_features * site.out_features
        if not site.has_bias or settings["prompt"] == "none":
            zeros += site.in_features
        if not site.has_bias or settings["bias"] == "none":
            zeros += 2 * site.out_features
        return self.count(site, settings) + zeros

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return rank and forms."""
        settings = module.as_dict()
        return {
            "r": settings["rank"],
            "config_A_B": settings["weight"],
            "config_C": settings.get("prompt", "none"),
            "config_D_E": settings.get("bias", "none"),
        }

    def canonical(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """Write the least rank where no path is low-rank."""
        if "lora" in (settings["weight"], settings.get("prompt")):
            return settings
        return {**settings, "rank": RANKS[0]}
