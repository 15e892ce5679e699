"""TinyLoRA: a handful of parameters that mix fixed random matrices inside an SVD of the weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import PerSite, narrowest, ordinal, up_to
from autopeft.search_spaces.targets import placed_on

SIZES = (1, 4, 16, 64, 256)
RANKS = (1, 2, 4, 8)
TYINGS = (0.0, 0.5, 0.75, 1.0)


@METHODS.register("tinylora")
class Tinylora(PerSite):
    """Morris et al. 2026 (arXiv 2602.04118): ``U S (sum_i v_i P_i) V'`` of rank ``r``.

    ``tying`` is the part of the layers that share a vector: 0 gives each its own, 1 has one for
    all. The file holds the frozen factors and the random matrices too.
    """

    name = "tinylora"
    title = "TinyLoRA"
    family = "shared projections"
    paper = "arXiv 2602.04118"
    peft_type = "TINYLORA"
    module_file = "autopeft.workers.modules.tinylora"
    supports_conv1d = True
    is_mergeable = True
    is_combinable = False
    same_fields: ClassVar[Mapping[str, str]] = {"size": "u", "rank": "r", "tying": "weight_tying"}
    # PEFT's published run at 1e-3 hardly learned in 5,000 steps: so few numbers have to move far.
    learning_rate = LearningRateRange(low=3e-3, default=3e-2, high=3e-1)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return vector size, rank and tying."""
        return (
            ordinal("size", SIZES, 64, "Trained numbers in a vector."),
            ordinal(
                "rank", up_to(RANKS, narrowest(sites)), 2, "Singular directions that are mixed."
            ),
            ordinal("tying", TYINGS, 0.0, "Part of the layers that share a vector."),
        )

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Return 0: the vectors stand beside the layers."""
        return 0

    def shared(self, shape: ModelShape, module: Module) -> int:
        """Count the vectors."""
        settings: Mapping[str, Any] = module.as_dict()
        layers = sum(len(layers) for _, layers in placed_on(shape, module))
        groups = max(1, round(layers * (1.0 - float(settings["tying"]))))
        size = max(1, layers // groups)
        return int(settings["size"]) * min(groups, -(-layers // size))

    def saved(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count the frozen factors and the random matrices."""
        rank = int(settings["rank"])
        frozen = rank * (site.in_features + site.out_features)
        return frozen + int(settings["size"]) * rank * rank

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return size, rank and tying."""
        settings = module.as_dict()
        return {field: settings[name] for name, field in self.same_fields.items()}
