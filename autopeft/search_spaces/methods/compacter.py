"""Compacter: serial adapters whose matrices are sums of Kronecker products, shared in part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape
from autopeft.search_spaces.blocks import block_arguments, block_dimension, num_blocks
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange, Method

#: The paper tries 4, 8 and 12 (table 1) and reductions of 2 to 32.
DIVISIONS = (2, 4, 8, 12)
REDUCTIONS = (64, 32, 16, 8, 4)


@METHODS.register("compacter")
class Compacter(Method):
    """Karimi Mahabadi et al. 2021; after the feed-forward block alone it is their Compacter++."""

    name = "compacter"
    title = "Compacter"
    family = "adapter"
    paper = "arXiv 2106.04647"
    saved_as = "ours"
    module_file = "autopeft.workers.modules.compacter"
    # The authors train at 3e-3 for thousands of steps; about a hundred need more, since a product
    # of small factors moves slowly.
    learning_rate = LearningRateRange(low=1e-3, default=5e-3, high=3e-2)

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return division, reduction and blocks."""
        width = shape.hidden_size
        divisions = tuple(n for n in DIVISIONS if width % n == 0 and 4 * n <= width)
        reductions = tuple(r for r in REDUCTIONS if width // r >= max(divisions, default=1))
        return (
            Dimension(
                name="division",
                kind="ordinal",
                values=divisions,
                default=4 if 4 in divisions else max(divisions, default=4),
                help="Terms of the sum (n), and size of the shared matrices.",
            ),
            Dimension(
                name="reduction",
                kind="ordinal",
                values=reductions,
                default=32 if 32 in reductions else max(reductions, default=32),
                help="The bottleneck is the width over this; more parameters where it is small.",
            ),
            block_dimension(
                shape,
                default=("attention_block", "ffn_block", "mixer_block"),
                help="Blocks that are followed by an adapter.",
            ),
        )

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count ``n^3`` once, and ``3 (d + m)`` a block of width d and bottleneck m.

        Two matrices a block, each of n factors of rank 1: ``n (d/n + m/n) = d + m``; and the
        two biases, ``d + m``.
        """
        division = module["division"]
        assert isinstance(division, int)
        each = 3 * (shape.hidden_size + self.bottleneck(shape, module))
        return division**3 + each * num_blocks(shape, module)

    def inference_extra_flops(self, shape: ModelShape, module: Module) -> int:
        """Count what the two full matrices of each block cost a token."""
        return 4 * shape.hidden_size * self.bottleneck(shape, module) * num_blocks(shape, module)

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of ``CompacterConfig``."""
        return {
            "peft_type": "AUTOPEFT_COMPACTER",
            "bottleneck": self.bottleneck(shape, module),
            "division": module["division"],
            **block_arguments(shape, module),
        }

    @staticmethod
    def bottleneck(shape: ModelShape, module: Module) -> int:
        """Return the width over the reduction, as the next multiple of n below, at least n."""
        division, reduction = module["division"], module["reduction"]
        assert isinstance(division, int)
        assert isinstance(reduction, int)
        return max(1, shape.hidden_size // reduction // division) * division
