"""SNELL: kernelised low rank, made sparse by competition."""

from __future__ import annotations

from collections.abc import Mapping

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Setting
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._matrices import MatrixMethod, rank_dimension, whole

RANKS = (2, 4, 8, 16, 32, 64)
SPARSITIES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)


@METHODS.register("snell")
class Snell(MatrixMethod):
    """Shen et al. 2024: two small matrices, a distance between their rows, the largest survive.

    Memory is that of LoRA: the change of a weight is made anew in the backward pass, and no
    positions are stored. A fresh module changes the output, as the authors' own does.
    """

    name = "snell"
    title = "SNELL"
    family = "sparse"
    paper = "arXiv 2411.01800"
    module_file = "autopeft.workers.modules.snell"
    peft_type = "AUTOPEFT_SNELL"
    starts_as_base = False
    # The authors train vision models with AdamW at 1e-3 for 100 epochs; about a hundred steps
    # need as much.
    learning_rate = LearningRateRange(low=2e-4, default=2e-3, high=1e-2)

    def sizes(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return rank and sparsity."""
        return (
            rank_dimension(
                shape, RANKS, default=8, help="Numbers for each row and each column of a weight."
            ),
            Dimension(
                name="sparsity",
                kind="ordinal",
                values=SPARSITIES,
                default=0.9,
                help="Part of each weight that does not change.",
            ),
        )

    def num_parameters_at(self, site: SiteShape, settings: Mapping[str, Setting]) -> int:
        """Count ``rank * (in + out)``."""
        return whole(settings, "rank") * (site.in_features + site.out_features)
