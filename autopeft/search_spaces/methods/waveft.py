"""WaveFT: a few trained entries of the update's wavelet coefficients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import PerSite, categorical, ordinal
from autopeft.search_spaces.methods.fourierft import entries

SIZES = (50, 100, 200, 500, 1000, 2592, 5000)
SCALINGS = (5.0, 10.0, 25.0, 50.0)
WAVELETS = ("db1", "sym2", "coif1")


@METHODS.register("waveft")
class WaveFt(PerSite):
    """Bilican et al. 2025 (section 3 of arXiv 2505.12532): an inverse wavelet transform."""

    name = "waveft"
    title = "WaveFT"
    family = "spectral"
    paper = "arXiv 2505.12532"
    peft_type = "WAVEFT"
    module_file = "autopeft.workers.modules.waveft"
    supports_conv1d = True
    is_mergeable = True
    same_fields: ClassVar[Mapping[str, str]] = {
        "size": "n_frequency",
        "scaling": "scaling",
        "wavelet": "wavelet_family",
    }
    # PEFT's published run learned well at 1e-4 with the scaling of 25, which multiplies the steps;
    # shifted up as for LoRA.
    learning_rate = LearningRateRange(low=1e-4, default=1e-3, high=1e-2)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return the number of entries, the scaling and the wavelet."""
        return (
            ordinal("size", entries(sites, SIZES), 2592, "Trained coefficients of a layer."),
            ordinal("scaling", SCALINGS, 25.0, "Factor of the update."),
            categorical("wavelet", WAVELETS, "db1", "Family of wavelets."),
        )

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count the coefficients."""
        return int(settings["size"])

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return coefficients, scaling and wavelet."""
        settings = module.as_dict()
        return {field: settings[name] for name, field in self.same_fields.items()}
