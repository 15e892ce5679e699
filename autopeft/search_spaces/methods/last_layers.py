"""Train the last layers in full."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange, Method
from autopeft.search_spaces.methods._in_full import in_layers, num_parameters
from autopeft.search_spaces.targets import pattern_of

NUM_LAYERS = (1, 2, 3, 4, 6, 8, 12, 16, 24)


@METHODS.register("last-layers")
class LastLayers(Method):
    """Lee, Tang and Lin 2019: the last k layers train, those before stay frozen.

    Every linear layer and normalisation of those layers trains, weights and biases. Stacked
    experts and convolutions stay frozen. Behind an encoder the decoder's layers are the last.
    """

    name = "last-layers"
    title = "Last layers in full"
    family = "selective"
    paper = "arXiv 1911.03090"
    saved_as = "ours"
    is_mergeable = True
    is_placeable = False
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
        return num_parameters(_placed(shape, module))

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of the config."""
        target = pattern_of(_placed(shape, module))
        return {"peft_type": "AUTOPEFT_LAST_LAYERS", "target_modules": target}

    def can_merge(self, shape: ModelShape, module: Module) -> bool:
        """Refuse where the weights are stored in four or eight bits."""
        return shape.quantization is None


def _placed(shape: ModelShape, module: Module) -> Iterator[tuple[SiteShape, tuple[int, ...]]]:
    count = module["num_layers"]
    assert isinstance(count, int)
    last = range(shape.num_layers - count, shape.num_layers)
    for site in in_layers(shape):
        if layers := site.layers_among(last):
            yield site, layers
