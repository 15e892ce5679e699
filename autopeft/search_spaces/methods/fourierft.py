"""FourierFT: a few trained entries of the update's spectrum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import PerSite, ordinal

SIZES = (50, 100, 200, 500, 1000, 2000, 5000)
SCALINGS = (30.0, 100.0, 150.0, 300.0)


@METHODS.register("fourierft")
class FourierFt(PerSite):
    """Gao et al. 2024 (equation 4 of arXiv 2405.03003): the real part of an inverse transform."""

    name = "fourierft"
    title = "FourierFT"
    family = "spectral"
    paper = "arXiv 2405.03003"
    peft_type = "FOURIERFT"
    module_file = "autopeft.workers.modules.fourierft"
    supports_conv1d = True
    is_mergeable = True
    starts_as_base = False  # the spectrum starts at standard normal numbers, as in the paper
    same_fields: ClassVar[Mapping[str, str]] = {"size": "n_frequency", "scaling": "scaling"}
    # The paper trains at 5e-2 to 1.2e-1 on GLUE; PEFT's published run at 1e-4 learned nothing.
    learning_rate = LearningRateRange(low=1e-3, default=3e-2, high=3e-1)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return the number of entries and the scaling."""
        return (
            ordinal("size", entries(sites, SIZES), 1000, "Trained entries of a layer's spectrum."),
            ordinal("scaling", SCALINGS, 150.0, "Factor of the update."),
        )

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count the entries."""
        return int(settings["size"])

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return entries and scaling."""
        return {"n_frequency": module["size"], "scaling": module["scaling"]}


def entries(sites: tuple[SiteShape, ...], sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the sizes that the smallest weight has room for."""
    room = min((site.in_features * site.out_features for site in sites), default=0)
    return tuple(size for size in sizes if size <= room)
