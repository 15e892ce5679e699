"""Binary masks: learn which numbers of each weight to keep."""

from __future__ import annotations

from collections.abc import Mapping

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Setting
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._matrices import MatrixMethod

SPREADS = (0.005, 0.01, 0.02, 0.05)


@METHODS.register("binary-mask")
class BinaryMask(MatrixMethod):
    """Zhao et al. 2020: each number of a weight is kept or set to zero, its value never changes.

    A score for each number trains; the mask is 1 where the score is not negative. Scores are
    what the adapter file holds, so that training can be resumed; the mask that follows takes
    one bit a number.
    """

    name = "binary-mask"
    title = "Binary masks"
    family = "sparse"
    paper = "arXiv 2004.12406"
    module_file = "autopeft.workers.modules.binary_mask"
    peft_type = "AUTOPEFT_BINARY_MASK"
    default_sites = ("q", "k", "v", "qkv", "ffn_in", "ffn_out")
    reads_weight = True
    # Scores start within ``spread`` of the threshold, and AdamW moves each by about the rate
    # a step: it takes spread / rate steps to switch a number off.
    learning_rate = LearningRateRange(low=1e-5, default=1e-4, high=1e-3)

    def sizes(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return how far from the threshold scores start."""
        return (
            Dimension(
                name="spread",
                kind="ordinal",
                values=SPREADS,
                default=0.01,
                help="Largest score at the start: the farther, the longer numbers are kept.",
            ),
        )

    def num_parameters_at(self, site: SiteShape, settings: Mapping[str, Setting]) -> int:
        """Count a score for each number of the weight."""
        return site.in_features * site.out_features
