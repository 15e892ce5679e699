"""Lily: LoRA whose A is shared by neighbouring layers and whose B is a mixture shared by all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._per_site import PerSite, ordinal, rank_dimension
from autopeft.search_spaces.targets import pattern_of, placed_on, placed_sites, sites_of

RANKS = (4, 8, 16, 32, 64, 128)
STRIDES = (1, 2, 3, 4)
EXPERTS = (2, 3, 4, 6)
SCALINGS = (1.0, 2.0, 4.0, 8.0)


@METHODS.register("lily")
class Lily(PerSite):
    """Zhong et al. 2024 (section 3.2 of arXiv 2407.09946): a router mixes the experts B.

    PEFT shares what belongs to one entry of ``target_modules``, so the sites are given as a
    list of endings beside the layers, and what else has such an ending is excluded. The file
    holds a copy of what is shared for each layer.
    """

    name = "lily"
    title = "Lily"
    family = "low-rank"
    paper = "arXiv 2407.09946"
    peft_type = "LILY"
    module_file = "autopeft.workers.modules.lily"
    same_fields: ClassVar[Mapping[str, str]] = {
        "rank": "r",
        "stride": "stride_A",
        "experts": "num_B",
        "scaling": "scaling",
    }
    # PEFT's published run uses LoRA's 1e-4 at a scaling of 8; shifted up as for LoRA here.
    learning_rate = LearningRateRange(low=2e-4, default=2e-3, high=1e-2)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return rank, stride, experts and scaling."""
        return (
            rank_dimension(sites, RANKS, 16, "Rank of the update; parameters grow with it."),
            ordinal("stride", STRIDES, 2, "Neighbouring layers that share an A."),
            ordinal("experts", EXPERTS, 2, "Matrices B that are mixed, shared by all layers."),
            ordinal("scaling", SCALINGS, 2.0, "Factor of the update."),
        )

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count the router: it alone is a layer's own."""
        return int(settings["rank"]) * int(settings["experts"])

    def shared(self, shape: ModelShape, module: Module) -> int:
        """Count an A for each stretch of layers and all B, for each site."""
        settings: Mapping[str, Any] = module.as_dict()
        rank = settings["rank"]
        return sum(
            rank * site.in_features * -(-len(layers) // settings["stride"])
            + rank * site.out_features * settings["experts"]
            for site, layers in placed_on(shape, module)
        )

    def saved(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count a copy of A and B for every layer."""
        rank, experts = int(settings["rank"]), int(settings["experts"])
        return rank * (site.in_features + experts * site.out_features + experts)

    def shared_saved(self, shape: ModelShape, module: Module) -> int:
        """Return 0: every layer has its copy."""
        return 0

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return rank, stride, experts and scaling."""
        settings = module.as_dict()
        return {field: settings[name] for name, field in self.same_fields.items()}

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments; sites as endings, layers as numbers."""
        stack = _stack(shape)
        assert stack is not None
        chosen = set(sites_of(module))
        endings = [site.path.rsplit("{layer}.", 1)[1] for site, _ in placed_on(shape, module)]
        alike = [
            site
            for site in shape.sites
            if site.site not in chosen and any(_ends(site.path, ending) for ending in endings)
        ]
        arguments = {
            "peft_type": self.peft_type,
            **self.arguments(shape, module),
            "target_modules": endings,
            "layers_to_transform": list(module.layers),
            "layers_pattern": [stack.rsplit(".", 1)[-1]],
        }
        if alike:
            names = {site.site for site in alike}
            layers = range(shape.num_layers)
            placed = [pair for pair in placed_sites(shape, names, layers) if pair[0] in alike]
            arguments["exclude_modules"] = pattern_of(placed)
        return arguments

    def unavailable(self, shape: ModelShape) -> str | None:
        """Refuse models of several stacks, whose layers PEFT would share across."""
        if _stack(shape) is None:
            return "its sharing between layers needs one stack of layers, all named alike"
        return super().unavailable(shape)


def _stack(shape: ModelShape) -> str | None:
    """Return the path of the only list of layers; None where there are several."""
    stacks = {site.path.split(".{layer}.")[0] for site in shape.sites if site.is_in_layers}
    return stacks.pop() if len(stacks) == 1 else None


def _ends(path: str, ending: str) -> bool:
    return re.search(rf"(?:^|\.){re.escape(ending)}$", path) is not None
