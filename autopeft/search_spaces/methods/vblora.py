"""VB-LoRA: LoRA composed of vectors from a bank that all layers share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import (
    PerSite,
    common_divisor,
    dividing,
    narrowest,
    ordinal,
    up_to,
)

VECTORS = (16, 30, 60, 90, 256)
LENGTHS = (8, 16, 32, 64, 128, 256)
RANKS = (2, 4, 8)


@METHODS.register("vblora")
class Vblora(PerSite):
    """Li et al. 2024 (equation 3 of arXiv 2405.15179): each sub-vector mixes the best two.

    The selection is sparse, so that most logits get no gradient in a step.
    """

    name = "vblora"
    title = "VB-LoRA"
    family = "shared projections"
    paper = "arXiv 2405.15179"
    peft_type = "VBLORA"
    module_file = "autopeft.workers.modules.vblora"
    supports_conv1d = True
    is_mergeable = True
    is_combinable = False
    starts_as_base = False  # both factors start as mixtures of random vectors, close to nothing
    same_fields: ClassVar[Mapping[str, str]] = {
        "rank": "r",
        "vectors": "num_vectors",
        "length": "vector_length",
    }
    # The paper trains logits at 1e-2 and the bank at 1e-3; one rate has to serve both.
    learning_rate = LearningRateRange(low=1e-3, default=1e-2, high=5e-2)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return rank, vectors and their length, which divides every width."""
        return (
            ordinal("rank", up_to(RANKS, narrowest(sites)), 4, "Rank of the update."),
            ordinal("vectors", VECTORS, 60, "Vectors in the bank."),
            ordinal("length", dividing(LENGTHS, common_divisor(sites)), 128, "Length of a vector."),
        )

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count a logit for each sub-vector and vector of the bank."""
        parts = (site.in_features + site.out_features) // int(settings["length"])
        return int(settings["rank"]) * parts * int(settings["vectors"])

    def shared(self, shape: ModelShape, module: Module) -> int:
        """Count the bank."""
        settings: Mapping[str, Any] = module.as_dict()
        return int(settings["vectors"] * settings["length"])

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return rank, vectors and length."""
        settings = module.as_dict()
        return {field: settings[name] for name, field in self.same_fields.items()}
