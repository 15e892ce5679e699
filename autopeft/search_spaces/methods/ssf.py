"""SSF: scale and shift the outputs of linear layers and normalisations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Deploy, Dimension, LearningRateRange, Method
from autopeft.search_spaces.targets import (
    NORM_NAMES,
    all_linear,
    placed_on,
    sites_of,
    target_pattern,
)


@METHODS.register("ssf")
class Ssf(Method):
    """Lian et al. 2022: ``gamma * y + beta`` with one scale and one shift a feature.

    Merged where every adapted layer has a bias that takes the shift up.
    """

    name = "ssf"
    title = "SSF"
    family = "scaling"
    paper = "arXiv 2210.08823"
    saved_as = "ours"
    module_file = "autopeft.workers.modules.ssf"
    is_mergeable = True
    # The authors' scripts use 1e-3 to 1e-2 with AdamW over 100 epochs and more; scales start at 1,
    # so that about a hundred steps can afford the upper end.
    learning_rate = LearningRateRange(low=1e-3, default=1e-2, high=5e-2)

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return the sites: linear layers and the normalisations between them."""
        values = (*all_linear(shape), *_norms(shape))
        return (
            Dimension(
                name="sites",
                kind="subset",
                values=values,
                default=values,
                help="Linear layers and normalisations whose outputs are scaled and shifted.",
            ),
        )

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count two for each output feature."""
        return sum(2 * site.out_features * len(layers) for site, layers in placed_on(shape, module))

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of ``SsfConfig``."""
        return {
            "peft_type": "AUTOPEFT_SSF",
            "target_modules": target_pattern(shape, module.layers, sites_of(module)),
        }

    def can_merge(self, shape: ModelShape, module: Module) -> bool:
        """Tell whether each adapted layer has a bias."""
        is_whole = shape.quantization is None
        return is_whole and all(_takes_shift(site) for site, _ in placed_on(shape, module))

    def deploy_values(self, shape: ModelShape, deploy: Deploy) -> Mapping[str, tuple[Any, ...]]:
        """Leave the sites without a bias out where the result is to be merged."""
        if deploy != "merged":
            return super().deploy_values(shape, deploy)
        (sites,) = self.dimensions(shape)
        values = tuple(
            name for name in sites.values if all(map(_takes_shift, shape.sites_called(name)))
        )
        if not values:
            raise ValueError("none of the model's layers has a bias that could take up the shift")
        return {"sites": values}


def _norms(shape: ModelShape) -> tuple[str, ...]:
    """Return the names of the normalisations inside the layers."""
    have = {norm.site for norm in shape.norms if norm.is_in_layers}
    return tuple(name for name in NORM_NAMES if name in have)


def _takes_shift(site: SiteShape) -> bool:
    return site.has_bias
