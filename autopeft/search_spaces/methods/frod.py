"""FRoD: trained rotations, sparse and full-rank, in a basis that layers share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import PerSite, ordinal
from autopeft.search_spaces.targets import placed_on

DENSITIES = (0.001, 0.003, 0.01, 0.02, 0.05)


@METHODS.register("frod")
class Frod(PerSite):
    """Full-rank updates in a jointly decomposed basis (AAAI 2026, doi 10.1609/aaai.v40i31.39813).

    The basis is found from the base weights when the trial starts, by an eigenvalue
    decomposition for each site; the file holds it.
    """

    name = "frod"
    title = "FRoD"
    family = "subspace"
    paper = "doi 10.1609/aaai.v40i31.39813"
    peft_type = "FROD"
    module_file = "autopeft.workers.modules.frod"
    supports_conv1d = True
    is_mergeable = True
    is_combinable = False
    same_fields: ClassVar[Mapping[str, str]] = {"density": "sparse_rate"}
    # PEFT's published run uses LoRA's 1e-4; shifted up as for LoRA here, less at the upper end:
    # the coefficients multiply whole directions of the weight.
    learning_rate = LearningRateRange(low=1e-4, default=1e-3, high=1e-2)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return the density of the rotations."""
        return (ordinal("density", DENSITIES, 0.01, "Part of the rotation's entries that trains."),)

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count diagonal and sparse entries."""
        return site.in_features + num_entries(site.in_features, float(settings["density"]))

    def shared_saved(self, shape: ModelShape, module: Module) -> int:
        """Count basis, positions and size of the sparse matrix for each site."""
        density = module["density"]
        assert isinstance(density, float)
        return sum(
            site.in_features**2 + 2 * num_entries(site.in_features, density) + 2
            for site, _ in placed_on(shape, module)
        )

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the density."""
        return {"sparse_rate": module["density"], "progressbar": False}

    def unavailable(self, shape: ModelShape) -> str | None:
        """Refuse models of several stacks, whose layers PEFT would mix up."""
        if len(shape.stacks) > 1:
            return "its shared basis needs one stack of layers"
        return super().unavailable(shape)


def num_entries(width: int, density: float) -> int:
    """Return how many entries beside the diagonal train."""
    return max(1, min(int(width * width * density), width * (width - 1)))
