"""Serial adapters: a bottleneck after the attention layer, the feed-forward layer, or both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape
from autopeft.search_spaces.blocks import (
    activation_dimension,
    block_arguments,
    block_dimension,
    bottleneck_dimension,
    num_blocks,
)
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange, Method


@METHODS.register("serial-adapter")
class SerialAdapter(Method):
    """Houlsby et al. 2019; after the feed-forward layer alone as Pfeiffer et al. (2005.00247).

    The gate is UniPELT's (arXiv 2110.07577).
    """

    name = "serial-adapter"
    title = "Serial adapter"
    family = "adapter"
    paper = "arXiv 1902.00751"
    saved_as = "ours"
    module_file = "autopeft.workers.modules.serial_adapter"
    # Houlsby et al. sweep 3e-5, 3e-4 and 3e-3; about a hundred steps from an adapter that starts
    # at zero need the upper end and more.
    learning_rate = LearningRateRange(low=1e-4, default=1e-3, high=1e-2)

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return size, blocks, activation and gate."""
        return (
            bottleneck_dimension(shape),
            block_dimension(shape, help="Blocks that are followed by an adapter."),
            activation_dimension(),
            Dimension(
                name="gated",
                kind="categorical",
                values=(False, True),
                default=False,
                help="Scale each token's update by a learned gate, as UniPELT does.",
            ),
        )

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count ``2 d m + d + m`` a block of width d and size m, and ``d + 1`` for a gate."""
        size, width = module["bottleneck"], shape.hidden_size
        assert isinstance(size, int)
        each = 2 * width * size + width + size + (width + 1 if module["gated"] else 0)
        return each * num_blocks(shape, module)

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of ``SerialAdapterConfig``."""
        return {
            "peft_type": "AUTOPEFT_SERIAL_ADAPTER",
            "bottleneck": module["bottleneck"],
            "activation": module["activation"],
            "gated": module["gated"],
            **block_arguments(shape, module),
        }
