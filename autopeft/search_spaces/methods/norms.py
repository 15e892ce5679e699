"""Train the normalisations and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange, Method
from autopeft.search_spaces.methods._in_full import numbers_in, sites_among, switch
from autopeft.search_spaces.targets import pattern_of, placed_on


@METHODS.register("norms")
class Norms(Method):
    """Zhao et al. 2023: weights (and biases) of the normalisations, each kind where it is wanted.

    PEFT's ``ln-tuning`` trains whole layers by name; here the normalisations are chosen by what
    they stand before or after, the biases can be left out, and those outside the layers can
    be taken along.
    """

    name = "norms"
    title = "Normalisations only"
    family = "selective"
    paper = "arXiv 2312.11420"
    exclusive = frozenset({"normalisations"})
    saved_as = "ours"
    is_mergeable = True
    module_file = "autopeft.workers.modules.full"
    # The paper tunes with about ten times the rate of full fine-tuning; the weights start near
    # 1, so that rates of 1e-2 are small steps in a search of about a hundred.
    learning_rate = LearningRateRange(low=1e-3, default=1e-2, high=5e-2)

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return the normalisations inside the layers, biases, and those outside."""
        inside = [site for site in shape.norms if site.is_in_layers]
        found = [sites_among(inside, help="Normalisations that train.")]
        if any(site.has_bias for site in inside):
            explained = "Whether their biases train beside their weights."
            found.append(switch("train_bias", default=True, help=explained))
        if _outside(shape):
            explained = "Whether the normalisations before and after all layers train too."
            found.append(switch("outside", default=False, help=explained))
        return tuple(found)

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count a weight, and where it trains a bias, for each feature."""
        has_bias = bool(module.as_dict().get("train_bias", True))
        return sum(
            numbers_in(site, has_bias=site.has_bias and has_bias) * max(1, len(layers))
            for site, layers in _placed(shape, module)
        )

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of the config."""
        return {
            "peft_type": "AUTOPEFT_NORMS",
            "target_modules": pattern_of(_placed(shape, module)),
            "train_bias": module.as_dict().get("train_bias", True),
        }


def _outside(shape: ModelShape) -> list[SiteShape]:
    return [site for site in shape.norms if not site.is_in_layers]


def _placed(shape: ModelShape, module: Module) -> list[tuple[SiteShape, tuple[int, ...]]]:
    placed = list(placed_on(shape, module))
    if module.as_dict().get("outside", False):
        placed += [(site, ()) for site in _outside(shape)]
    return placed
