"""IA3: one learned scale for each feature of an activation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module, Setting
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import PerSite
from autopeft.search_spaces.targets import placed_on, sites_of, target_pattern

#: No ``q``: without rotary positions, scaling queries and scaling keys are the same function
#: with the same gradient, so the two would be one configuration under two names.
SITES = ("k", "v", "qkv", "attention_output", "ffn_gate", "ffn_in", "ffn_gate_in", "ffn_out")


@METHODS.register("ia3")
class Ia3(PerSite):
    """Liu et al. 2022: scale keys, values and the inner activation of the feed-forward layer.

    Outputs are scaled, except at ``ffn_out``, whose input is (section 3.3 of arXiv 2205.05638:
    the inner activation of the feed-forward layer). A published adapter may scale the inputs
    of other sites, which its module names in the setting ``input_sites``.
    """

    name = "ia3"
    title = "IA3"
    family = "scaling"
    paper = "arXiv 2205.05638"
    peft_type = "IA3"
    supports_conv1d = True
    supports_quantized = True
    is_mergeable = True
    default_sites = ("k", "v", "ffn_out")
    # The paper uses 3e-3 for 1,000 steps; about a hundred steps need more, and scales start at 1,
    # so that rates of 1e-2 and above are small steps.
    learning_rate = LearningRateRange(low=1e-3, default=1e-2, high=1e-1)

    def fits(self, shape: ModelShape, site: SiteShape) -> bool:
        """Offer the sites that the paper scales and those like them."""
        return site.site in SITES and super().fits(shape, site)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return nothing: sites are all there is to choose."""
        return ()

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count the inputs of ``ffn_out`` and the outputs of every other site."""
        scaled = settings.get("input_sites", ("ffn_out",))
        return site.in_features if site.site in scaled else site.out_features

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the pattern of the sites whose inputs are scaled."""
        scaled = module.as_dict().get("input_sites", ("ffn_out",))
        assert isinstance(scaled, tuple)
        sites = [site for site in sites_of(module) if site in scaled]
        # An empty list, not None: None would ask PEFT for its own table of feed-forward names.
        inputs: str | list[str] = []
        if any(site.site in sites for site, _ in placed_on(shape, module)):
            inputs = target_pattern(shape, module.layers, sites)
        return {"feedforward_modules": inputs}

    def settings_from_peft(
        self, shape: ModelShape, config: Mapping[str, Any]
    ) -> Mapping[str, Setting]:
        """Return the sites whose inputs are scaled, unless it is ``ffn_out`` alone."""
        targets = config.get("feedforward_modules") or []
        if not targets:
            return {"input_sites": ()}
        inputs = {site.site for site, _ in self.placed_by(shape, config, targets)}
        chosen = {site.site for site, _ in self.placed_by(shape, config)}
        if inputs == {"ffn_out"} & chosen:
            return {}
        return {"input_sites": tuple(sorted(inputs))}
