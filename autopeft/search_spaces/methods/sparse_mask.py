"""A given sparse mask: a few numbers of each weight train, the rest stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module, Setting
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._matrices import MatrixMethod, num_kept, real

DENSITIES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


@METHODS.register("sparse-mask")
class SparseMask(MatrixMethod):
    """Guo et al. 2021 in form (a sparse difference vector), with a mask that is fixed beforehand.

    The mask is drawn at random (the random baseline of arXiv 2211.15583; PEFT's SHiRA does so
    too) or holds each weight's largest numbers by magnitude. The config also reads a mask from a
    file (``mask_file``). Values and positions are kept, never a dense mask: memory grows with
    the mask.
    """

    name = "sparse-mask"
    title = "Sparse mask"
    family = "sparse"
    paper = "arXiv 2012.07463"
    module_file = "autopeft.workers.modules.sparse_mask"
    peft_type = "AUTOPEFT_SPARSE_MASK"
    # Each number is a weight of the model, of size 0.02 to 0.05 in most; PEFT's SHiRA example
    # uses 1e-4 to 1e-3 over epochs.
    learning_rate = LearningRateRange(low=1e-4, default=1e-3, high=1e-2)
    selections: ClassVar[tuple[str, ...]] = ("random", "magnitude")

    def sizes(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return how dense the mask is and how it is chosen."""
        # A quantised weight has no magnitudes to choose by.
        selections = self.selections if shape.quantization is None else self.selections[:1]
        return (
            Dimension(
                name="density",
                kind="ordinal",
                values=DENSITIES,
                default=0.01,
                help="Part of each weight that trains.",
            ),
            Dimension(
                name="selection",
                kind="categorical",
                values=selections,
                default="random",
                help="Which numbers: drawn, or the largest by magnitude.",
            ),
        )

    def num_parameters_at(self, site: SiteShape, settings: Mapping[str, Setting]) -> int:
        """Count the kept part of ``in * out``, at least one number."""
        return num_kept(site.in_features * site.out_features, real(settings, "density"))

    def num_saved_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count a position for each value."""
        return 2 * self.num_parameters(shape, module)
