"""Parallel adapters: a scaled bottleneck beside a block, reading what the block reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
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

#: Size in the MAM adapter, the same for every width (section 4.6 of arXiv 2110.04366).
MAM_SIZE = 512


@METHODS.register("parallel-adapter")
class ParallelAdapter(Method):
    """He et al. 2022: beside the feed-forward layer it is the better half of their MAM adapter."""

    name = "parallel-adapter"
    title = "Parallel adapter"
    family = "adapter"
    paper = "arXiv 2110.04366"
    saved_as = "ours"
    module_file = "autopeft.workers.modules.parallel_adapter"
    # He et al. use about 1e-4 over tens of thousands of steps with a scale of 4; about a hundred
    # steps from an adapter that starts at zero need ten times that and more.
    learning_rate = LearningRateRange(low=1e-4, default=1e-3, high=1e-2)

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return size, scaling, activation and blocks."""
        sizes = bottleneck_dimension(shape)
        if shape.hidden_size >= MAM_SIZE:
            sizes = replace(sizes, values=tuple(sorted({*sizes.values, MAM_SIZE})))
        return (
            sizes,
            Dimension(
                name="scaling",
                kind="ordinal",
                values=(0.5, 1.0, 2.0, 4.0),
                default=4.0,
                help="Constant factor of the update.",
            ),
            activation_dimension(),
            block_dimension(shape, help="Blocks that have an adapter beside them."),
        )

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count ``2 d m + d + m`` a block of width d and size m."""
        size, width = module["bottleneck"], shape.hidden_size
        assert isinstance(size, int)
        return (2 * width * size + width + size) * num_blocks(shape, module)

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of ``ParallelAdapterConfig``."""
        return {
            "peft_type": "AUTOPEFT_PARALLEL_ADAPTER",
            "bottleneck": module["bottleneck"],
            "scaling": module["scaling"],
            "activation": module["activation"],
            **block_arguments(shape, module, inputs=True),
        }
