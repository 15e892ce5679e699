"""LN tuning: train the normalisations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module, Setting
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import PerSite
from autopeft.search_spaces.targets import NORM_NAMES


@METHODS.register("ln-tuning")
class LnTuning(PerSite):
    """Zhao et al. 2023 (section 3 of arXiv 2312.11420), as PEFT offers it.

    Normalisations in the layers can be chosen; a published adapter may also train those that
    stand outside them.
    """

    name = "ln-tuning"
    title = "LN tuning"
    family = "norms"
    paper = "arXiv 2312.11420"
    # It trains a copy of the whole layer, which another method must not have changed.
    exclusive = frozenset({"bias vectors", "normalisations"})
    peft_type = "LN_TUNING"
    supports_quantized = True
    is_mergeable = True
    # The paper trains at 2e-5 to 5e-3, PEFT's published run at 1e-4 learned nothing in 5,000
    # steps: scales start at 1, so that 1e-2 is a small step.
    learning_rate = LearningRateRange(low=1e-3, default=1e-2, high=1e-1)

    def candidates(self, shape: ModelShape) -> tuple[SiteShape, ...]:
        """Return the normalisations."""
        return shape.norms

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return the normalisations inside the layers."""
        inside = {norm.site for norm in shape.norms if norm.is_in_layers}
        values = tuple(name for name in NORM_NAMES if name in inside)
        return (
            Dimension(
                name="sites",
                kind="subset",
                values=values,
                default=values,
                help="Normalisations that are trained.",
            ),
        )

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return nothing: sites are all there is to choose."""
        return ()

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count a scale for each feature, and a shift where there is one."""
        return site.out_features * (2 if site.has_bias else 1)

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Setting]:
        """Return nothing beside the targets."""
        return {}

    def unavailable(self, shape: ModelShape) -> str | None:
        """Refuse models without normalisations in their layers."""
        if not any(norm.is_in_layers for norm in shape.norms):
            return f"no normalisation was found in the layers of {shape.model_type}"
        return super(PerSite, self).unavailable(shape)
