"""Convolutional adapters: a bottleneck with a convolution over the patches inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape
from autopeft.search_spaces.blocks import block_arguments, block_dimension, num_blocks
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange, Method

SIZES = (4, 8, 16, 32, 64)
KERNEL = 3


@METHODS.register("conv-adapter")
class ConvAdapter(Method):
    """Convpass, Jie and Deng 2022: convolutional bypasses beside the blocks of a transformer.

    For images and spectrograms, whose number of patches is fixed: a convolution over text
    would mix in the padding of the batch, and would look ahead in a language model.
    """

    name = "conv-adapter"
    title = "Convolutional adapter"
    family = "adapter"
    paper = "arXiv 2207.07039"
    saved_as = "ours"
    module_file = "autopeft.workers.modules.conv_adapter"
    tasks = frozenset({"image-classification", "audio-classification"})
    # The paper uses AdamW at 1e-3 over 100 epochs of 1,000 images; about a hundred steps need
    # as much and more.
    learning_rate = LearningRateRange(low=3e-4, default=2e-3, high=1e-2)

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return size, scaling and blocks."""
        sizes = tuple(size for size in SIZES if size <= shape.hidden_size)
        return (
            Dimension(
                name="bottleneck",
                kind="ordinal",
                values=sizes,
                default=8 if 8 in sizes else max(sizes, default=8),
                help="Channels inside the adapter; 8 in the paper.",
            ),
            Dimension(
                name="scaling",
                kind="ordinal",
                values=(0.01, 0.1, 1.0, 10.0),
                default=1.0,
                help="Constant factor of the update; the paper chooses among these.",
            ),
            block_dimension(
                shape,
                default=("attention_block", "ffn_block"),
                help="Blocks that have an adapter beside them.",
            ),
        )

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count ``2 d m + d + m`` and a convolution of ``k m^2 + m`` a block.

        k is 9 on images and 3 on spectrograms.
        """
        size, width = module["bottleneck"], shape.hidden_size
        assert isinstance(size, int)
        kernel = KERNEL * KERNEL if _num_dimensions(shape) == 2 else KERNEL
        each = 2 * width * size + width + size + kernel * size * size + size
        return each * num_blocks(shape, module)

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of ``ConvAdapterConfig``."""
        return {
            "peft_type": "AUTOPEFT_CONV_ADAPTER",
            "bottleneck": module["bottleneck"],
            "scaling": module["scaling"],
            "num_dimensions": _num_dimensions(shape),
            **block_arguments(shape, module, inputs=True),
        }


def _num_dimensions(shape: ModelShape) -> int:
    """Return 2 for a square grid of image patches, 1 for patches in a row."""
    return 2 if shape.task == "image-classification" else 1
