"""Intrinsic dimension: a few numbers for the whole model, spread by a fixed random projection."""

from __future__ import annotations

from collections.abc import Mapping

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module, Setting
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._matrices import MatrixMethod, num_matrices, whole

DIMENSIONS = (16, 64, 256, 1024, 4096, 16384)


@METHODS.register("said")
class Said(MatrixMethod):
    """Aghajanyan et al. 2021, the structure-aware form: one vector for all, one scale for each.

    All chosen matrices change by projections of one trained vector, each with a scale of its
    own. The paper spreads it over every parameter of the model; here over the chosen sites.
    """

    name = "said"
    title = "SAID (intrinsic dimension)"
    family = "projection"
    paper = "arXiv 2012.13255"
    module_file = "autopeft.workers.modules.said"
    peft_type = "AUTOPEFT_SAID"
    # A step moves a number of a weight by about rate * sqrt(dimension / size of the weight), far
    # less than the rate, so the rates lie above LoRA's.
    learning_rate = LearningRateRange(low=1e-3, default=1e-2, high=1e-1)

    def sizes(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return the dimension of the trained vector."""
        return (
            Dimension(
                name="dimension",
                kind="ordinal",
                values=DIMENSIONS,
                default=1024,
                help="Numbers that train for all matrices together.",
            ),
        )

    def num_parameters_at(self, site: SiteShape, settings: Mapping[str, Setting]) -> int:
        """Count the scale of one matrix."""
        return 1

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count the vector, once, and a scale for each matrix."""
        return whole(module.as_dict(), "dimension") + num_matrices(shape, module)
