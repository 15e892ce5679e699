"""Half fine-tuning: a drawn half of each layer trains in full."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module, Setting
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange, Method
from autopeft.search_spaces.methods._in_full import category_of, num_parameters, trainable_in
from autopeft.search_spaces.targets import pattern_of, sites_of

SELECTIONS = (0, 1, 2, 3)


@METHODS.register("half")
class Half(Method):
    """Hui et al. 2024: half of the attention's, half of the feed-forward's matrices train.

    Section 3: in each layer, half of each category (attention, feed-forward, normalisation) is
    drawn and trains, the rest stays as it was and keeps what the model knew. Of an odd
    number one more trains in every second layer. Which half is a dimension, ``selection``,
    and not drawn anew for each round of training as in the paper; embeddings and output
    layer stay frozen.
    """

    name = "half"
    title = "Half fine-tuning"
    family = "selective"
    paper = "arXiv 2404.18466"
    saved_as = "ours"
    is_mergeable = True
    exclusive = frozenset({"normalisations"})  # it trains half of them
    module_file = "autopeft.workers.modules.full"
    # The paper trains at the rates of full fine-tuning (2e-5 for 7B models); small models and
    # about a hundred steps bear more.
    learning_rate = LearningRateRange(low=1e-5, default=1e-4, high=1e-3)

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return which half."""
        return (
            Dimension(
                name="selection",
                kind="categorical",
                values=SELECTIONS if len(shape.sites) > 1 else (),
                default=0,
                help="Which half of each layer trains: the seed it is drawn with.",
            ),
        )

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count the numbers in the drawn half."""
        return num_parameters(_drawn(shape, module))

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of the config."""
        target = pattern_of(_drawn(shape, module))
        return {"peft_type": "AUTOPEFT_HALF", "target_modules": target}

    def layer_settings(
        self, shape: ModelShape, module: Module, layer: int
    ) -> Mapping[str, Setting]:
        """Return what is drawn in this layer, as ``sites``."""
        drawn = (site.site for site, layers in _drawn(shape, module) if layer in layers)
        return {"sites": tuple(sorted(drawn))}

    def can_merge(self, shape: ModelShape, module: Module) -> bool:
        """Refuse where the weights are stored in four or eight bits."""
        return shape.quantization is None


def _drawn(shape: ModelShape, module: Module) -> list[tuple[SiteShape, tuple[int, ...]]]:
    """Return what trains: a function of the shape's names, the layer and the selection.

    Of a module with ``sites``, which :meth:`Half.layer_settings` gives, these train everywhere.
    """
    settings = module.as_dict()
    if "sites" in settings:
        names = sites_of(module)
        return [pair for pair in trainable_in(shape, module) if pair[0].site in names]
    categories: dict[tuple[int, str], list[SiteShape]] = {}
    for site, layers in trainable_in(shape, module):
        for layer in layers:
            categories.setdefault((layer, category_of(site)), []).append(site)
    drawn: dict[SiteShape, list[int]] = {}
    for (layer, category), sites in categories.items():
        seed = zlib.crc32(f"{module['selection']}/{layer}/{category}".encode())
        order = np.random.default_rng(seed).permutation(len(sites)).tolist()
        for number in order[: (len(sites) + layer % 2) // 2]:
            drawn.setdefault(sites[number], []).append(layer)
    return [(site, tuple(sorted(layers))) for site, layers in drawn.items()]
