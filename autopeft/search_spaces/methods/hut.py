"""HUT: multiply each weight, number by number, with a low-rank matrix."""

from __future__ import annotations

from collections.abc import Mapping

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Setting
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._matrices import MatrixMethod, rank_dimension, whole

RANKS = (1, 2, 4, 8, 16, 32)


@METHODS.register("hut")
class Hut(MatrixMethod):
    """Zhang et al. 2024: the new weight is a transformation of the old one, ``W * (A B)``.

    HiRA (PEFT's ``hira``) adds such a product to the weight; here the low-rank matrix takes the
    weight's place in full and starts with ones everywhere.
    """

    name = "hut"
    title = "HUT"
    family = "scaling"
    paper = "arXiv 2409.13501"
    module_file = "autopeft.workers.modules.hut"
    peft_type = "AUTOPEFT_HUT"
    reads_weight = True
    # A factor on every weight moves like IA3's scales (arXiv 2205.05638: 3e-3), and there are as
    # many directions as in LoRA.
    learning_rate = LearningRateRange(low=5e-4, default=5e-3, high=3e-2)

    def sizes(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return the rank."""
        return (
            rank_dimension(
                shape, RANKS, default=4, help="Rank of the factors; 1 scales rows and columns."
            ),
        )

    def num_parameters_at(self, site: SiteShape, settings: Mapping[str, Setting]) -> int:
        """Count ``rank * (in + out)``."""
        return whole(settings, "rank") * (site.in_features + site.out_features)
