"""Lottery-ticket sparse tuning: train all, keep what moved most, begin again with that."""

from __future__ import annotations

from collections.abc import Mapping

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module, Setting
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._matrices import MatrixMethod, num_kept, num_matrices, real

DENSITIES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
FRACTIONS = (0.25, 0.5, 0.75)


@METHODS.register("lottery-ticket")
class LotteryTicket(MatrixMethod):
    """Ansell et al. 2022: the mask of a sparse change is found by a first, full training.

    In the first phase every number of the chosen weights trains, so that is what it counts as
    trainable and what it costs in memory; afterwards only ``density`` of them differ.
    """

    name = "lottery-ticket"
    title = "Lottery-ticket sparse tuning"
    family = "sparse"
    paper = "arXiv 2110.07560"
    module_file = "autopeft.workers.modules.lottery_ticket"
    peft_type = "AUTOPEFT_LOTTERY_TICKET"
    # The paper trains at the rates of full fine-tuning, 2e-5 to 5e-5; about a hundred steps
    # in two phases need more.
    learning_rate = LearningRateRange(low=1e-5, default=2e-4, high=2e-3)

    def sizes(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return the density in the end and the length of the first phase."""
        return (
            Dimension(
                name="density",
                kind="ordinal",
                values=DENSITIES,
                default=0.05,
                help="Part of each weight that differs in the end.",
            ),
            Dimension(
                name="first_phase",
                kind="ordinal",
                values=FRACTIONS,
                default=0.5,
                help="Part of the steps in which everything trains.",
            ),
        )

    def num_parameters_at(self, site: SiteShape, settings: Mapping[str, Setting]) -> int:
        """Count every number of the weight: all of them train at first."""
        return site.in_features * site.out_features

    def num_saved_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count the positions that survive, and the phase of each matrix, beside what trains."""
        density = real(module.as_dict(), "density")
        kept = sum(
            num_kept(site.in_features * site.out_features, density) * count
            for site, count in self.sites_with_layers(shape, module)
        )
        return self.num_parameters(shape, module) + kept + num_matrices(shape, module)
