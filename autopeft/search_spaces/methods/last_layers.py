"""Train the last layers in full."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange, Method
from autopeft.search_spaces.methods._in_full import (
    in_layers,
    num_parameters,
    numbers_in_parameter,
)
from autopeft.search_spaces.targets import pattern_of

NUM_LAYERS = (1, 2, 3, 4, 6, 8, 12, 16, 24)


@METHODS.register("last-layers")
class LastLayers(Method):
    """Lee, Tang and Lin 2019: the last k layers train, those before stay frozen.

    Every linear layer and normalisation of those layers trains, weights and biases, and so do
    stacked experts. Convolutions stay frozen. Behind an encoder the decoder's layers are the last.
    """

    name = "last-layers"
    title = "Last layers in full"
    family = "selective"
    paper = "arXiv 1911.03090"
    saved_as = "ours"
    is_mergeable = True
    exclusive = frozenset({"normalisations"})  # it trains them
    is_placeable = False
    counted_by = "num_layers"
    trains_experts = True
    module_file = "autopeft.workers.modules.full"
    # Full fine-tuning of encoders is done with 1e-5 to 1e-4 over epochs (BERT, appendix A.3);
    # a search of about a hundred steps on few layers bears more.
    learning_rate = LearningRateRange(low=1e-5, default=1e-4, high=1e-3)

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return how many layers."""
        values = tuple(k for k in NUM_LAYERS if k <= shape.num_layers) if in_layers(shape) else ()
        return (
            Dimension(
                name="num_layers",
                kind="ordinal",
                values=values,
                default=2 if 2 in values else 1,
                help="How many of the last layers train.",
            ),
        )

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count the numbers in those layers."""
        stacked = sum(
            numbers_in_parameter(site) * len(layers)
            for site, layers in _in_last(shape, module, _stacked(shape))
        )
        return stacked + num_parameters(_in_last(shape, module, in_layers(shape)))

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of the config."""
        owners = {site.path.rpartition(".")[0]: site for site in _stacked(shape)}
        modules = [
            SiteShape.from_json({**site.to_json(), "path": path}) for path, site in owners.items()
        ]
        names = {site.path.rpartition(".")[2] for site in _stacked(shape)}
        return {
            "peft_type": "AUTOPEFT_LAST_LAYERS",
            "target_modules": pattern_of(_in_last(shape, module, (*in_layers(shape), *modules))),
            "stacked": sorted(names),
        }

    def can_merge(self, shape: ModelShape, module: Module) -> bool:
        """Refuse quantised weights and stacked ones."""
        return shape.quantization is None and not _stacked(shape)


def _stacked(shape: ModelShape) -> list[SiteShape]:
    return [site for site in shape.parameters if site.is_in_layers]


def _in_last(
    shape: ModelShape, module: Module, sites: Iterable[SiteShape]
) -> Iterator[tuple[SiteShape, tuple[int, ...]]]:
    """Yield those of ``sites`` that the last layers have, with these layers."""
    count = module["num_layers"]
    assert isinstance(count, int)
    last = range(shape.num_layers - count, shape.num_layers)
    for site in sites:
        if layers := site.layers_among(last):
            yield site, layers
