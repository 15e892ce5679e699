"""TLoRA: a dense transform of each weight, plus a compact residual."""

from __future__ import annotations

import math
from collections.abc import Mapping

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Setting
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._matrices import MatrixMethod, whole

RANKS = (1, 2, 3, 4)


@METHODS.register("tlora")
class Tlora(MatrixMethod):
    """Tao et al. 2025: ``W T + R``, both ``T`` and ``R`` as tensor rings of two cores.

    The transform is a dense, full-rank matrix with few parameters that starts as the identity;
    the residual starts at zero.
    """

    name = "tlora"
    title = "TLoRA (transform plus residual)"
    family = "low-rank"
    paper = "arXiv 2501.08727"
    module_file = "autopeft.workers.modules.tlora"
    peft_type = "AUTOPEFT_TLORA"
    reads_weight = True
    # The transform multiplies the weight, as OFT's does, which trains with 1e-4 to 1e-3; about a
    # hundred steps need more.
    learning_rate = LearningRateRange(low=1e-4, default=1e-3, high=5e-3)

    def sizes(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return the ranks of the two tensor rings."""
        return (
            Dimension(
                name="transform_rank",
                kind="ordinal",
                values=RANKS,
                default=2,
                help="Rank of the transform's tensor ring.",
            ),
            Dimension(
                name="residual_rank",
                kind="ordinal",
                values=RANKS,
                default=2,
                help="Rank of the residual's tensor ring.",
            ),
        )

    def num_parameters_at(self, site: SiteShape, settings: Mapping[str, Setting]) -> int:
        """Count two cores for the transform and two for the residual."""
        rows, columns = two_factors(site.out_features), two_factors(site.in_features)
        transform = sum(i * i for i in columns) * whole(settings, "transform_rank") ** 2
        cores = sum(o * i for o, i in zip(rows, columns, strict=True))
        return transform + cores * whole(settings, "residual_rank") ** 2


def two_factors(width: int) -> tuple[int, int]:
    """Return the two factors of a width that lie nearest each other, the smaller first."""
    small = next(i for i in range(math.isqrt(width), 0, -1) if width % i == 0)
    return small, width // small
