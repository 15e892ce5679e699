"""Prune and regrow: a sparse change whose positions move during training."""

from __future__ import annotations

from collections.abc import Mapping

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module, Setting
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._matrices import MatrixMethod, num_kept, num_matrices, real

DENSITIES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
NUM_UPDATES = (2, 4, 8, 16)


@METHODS.register("prune-regrow")
class PruneRegrow(MatrixMethod):
    """Ansell et al. 2024 (SpIEL-AG): drop the smallest changes, grow where gradients are large.

    Values, their positions and as many candidates with the gradients gathered for them are
    kept, so memory grows with the density and never holds a dense gradient for longer than one
    layer takes.
    """

    name = "prune-regrow"
    title = "Prune and regrow (SpIEL)"
    family = "sparse"
    paper = "arXiv 2401.16405"
    module_file = "autopeft.workers.modules.prune_regrow"
    peft_type = "AUTOPEFT_PRUNE_REGROW"
    # As for a fixed sparse mask; positions that are regrown start at zero and need time.
    learning_rate = LearningRateRange(low=1e-4, default=1e-3, high=1e-2)

    def sizes(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return density, number of updates and how many positions the first one moves."""
        return (
            Dimension(
                name="density",
                kind="ordinal",
                values=DENSITIES,
                default=0.01,
                help="Part of each weight that trains at any time.",
            ),
            Dimension(
                name="num_updates",
                kind="ordinal",
                values=NUM_UPDATES,
                default=4,
                help="How often during training positions move.",
            ),
            Dimension(
                name="drop_fraction",
                kind="ordinal",
                values=(0.1, 0.2, 0.4),
                default=0.2,
                help="Part of the positions that moves at first; it falls to none at the end.",
            ),
        )

    def num_parameters_at(self, site: SiteShape, settings: Mapping[str, Setting]) -> int:
        """Count the values that train at any time."""
        return num_kept(site.in_features * site.out_features, real(settings, "density"))

    def num_saved_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count values, positions, candidates, their gradients and a state for each matrix."""
        return 4 * self.num_parameters(shape, module) + num_matrices(shape, module)
