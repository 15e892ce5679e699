"""Adapters shared across layers: many layers, few weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape
from autopeft.search_spaces.blocks import (
    block_arguments,
    block_dimension,
    bottleneck_dimension,
    num_blocks,
)
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange, Method
from autopeft.search_spaces.targets import placed_on

GROUPS = (1, 2, 3, 4, 6)


@METHODS.register("shared-adapter")
class SharedAdapter(Method):
    """One serial adapter for a group of neighbouring layers, scaled by each layer on its own.

    The adapter that all layers share is ProPETL's prototype (Zeng et al. 2023), which tells
    the layers apart by binary masks; here a learned factor for each layer does.
    """

    name = "shared-adapter"
    title = "Shared adapter"
    family = "adapter"
    paper = "arXiv 2305.17682"
    saved_as = "ours"
    module_file = "autopeft.workers.modules.shared_adapter"
    # As for serial adapters; each weight gathers the gradients of a group of layers, so that
    # no more is needed.
    learning_rate = LearningRateRange(low=1e-4, default=1e-3, high=1e-2)

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return size, number of groups and blocks."""
        groups = tuple(number for number in GROUPS if number <= shape.num_layers)
        return (
            bottleneck_dimension(shape),
            Dimension(
                name="groups",
                kind="ordinal",
                values=groups,
                default=1,
                help="Adapters of each kind of block: the layers are split into so many groups.",
            ),
            block_dimension(shape, help="Blocks that are followed by an adapter."),
        )

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count ``2 d m + d + m`` an adapter and 1 a block that it stands after."""
        size, width = module["bottleneck"], shape.hidden_size
        assert isinstance(size, int)
        adapters = len(set(self.adapters(shape, module).values()))
        return (2 * width * size + width + size) * adapters + num_blocks(shape, module)

    def inference_extra_flops(self, shape: ModelShape, module: Module) -> int:
        """Count what the adapters cost a token: each runs in all of its layers."""
        size, width = module["bottleneck"], shape.hidden_size
        assert isinstance(size, int)
        return 4 * width * size * num_blocks(shape, module)

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of ``SharedAdapterConfig``."""
        return {
            "peft_type": "AUTOPEFT_SHARED_ADAPTER",
            "bottleneck": module["bottleneck"],
            "adapters": self.adapters(shape, module),
            **block_arguments(shape, module),
        }

    @staticmethod
    def adapters(shape: ModelShape, module: Module) -> dict[str, str]:
        """Return the name of the adapter of each block, by the path of the block's end.

        The layers of the module are split into runs of lengths that differ by at most 1.
        """
        groups = module["groups"]
        assert isinstance(groups, int)
        group = {
            layer: index * min(groups, len(module.layers)) // len(module.layers)
            for index, layer in enumerate(module.layers)
        }
        return {
            site.end_path_in(layer): f"{site.site}_{group[layer]}"
            for site, layers in placed_on(shape, module)
            for layer in layers
        }
