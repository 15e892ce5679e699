"""FLoRA: a Tucker core for weights with any number of axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module, Setting
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._matrices import MatrixMethod, rank_dimension, whole
from autopeft.search_spaces.targets import pattern_of, placed_on

RANKS = (1, 2, 4, 8, 16, 32)


@METHODS.register("flora")
class Flora(MatrixMethod):
    """Si et al. 2024: the change of a weight is a small core, widened along each axis.

    For a matrix it is ``A G B`` with a square core; a convolution keeps its kernel's axes,
    where LoRA would flatten them. The core starts at zero.
    """

    name = "flora"
    title = "FLoRA (Tucker core)"
    family = "low-rank"
    paper = "arXiv 2405.14739"
    module_file = "autopeft.workers.modules.flora"
    peft_type = "AUTOPEFT_FLORA"
    # As LoRA: the same product with one more factor.
    learning_rate = LearningRateRange(low=2e-4, default=2e-3, high=1e-2)

    def sizes(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return rank, scale and, where there is a patch embedding, whether it is adapted."""
        rank = rank_dimension(shape, RANKS, default=8, help="Size of the core along each axis.")
        scale = Dimension(
            name="scale",
            kind="ordinal",
            values=(0.25, 0.5, 1.0, 2.0, 4.0),
            default=1.0,
            help="Factor on the change.",
        )
        if not _patches(shape):
            return (rank, scale)
        patch = Dimension(
            name="patch_embedding",
            kind="categorical",
            values=(False, True),
            default=False,
            help="Whether the convolution that makes patches is adapted too.",
        )
        return (rank, scale, patch)

    def num_parameters_at(self, site: SiteShape, settings: Mapping[str, Setting]) -> int:
        """Count the core, and a factor for each axis."""
        axes = (site.out_features, site.in_features, *site.kernel_size)
        ranks = [min(whole(settings, "rank"), axis) for axis in axes]
        core = 1
        for rank in ranks:
            core *= rank
        return core + sum(axis * rank for axis, rank in zip(axes, ranks, strict=True))

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Sum over matrices and convolutions."""
        settings = module.as_dict()
        return sum(
            self.num_parameters_at(site, settings) * max(1, len(layers))
            for site, layers in _placed(shape, module)
        )

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of the config."""
        return {
            "peft_type": self.peft_type,
            "target_modules": pattern_of(_placed(shape, module)),
            "rank": module["rank"],
            "scale": module["scale"],
        }


def _patches(shape: ModelShape) -> list[SiteShape]:
    return [site for site in shape.convolutions if site.site == "patch_embedding"]


def _placed(shape: ModelShape, module: Module) -> list[tuple[SiteShape, tuple[int, ...]]]:
    placed = list(placed_on(shape, module))
    if module.as_dict().get("patch_embedding", False):
        placed += [(site, ()) for site in _patches(shape)]
    return placed
