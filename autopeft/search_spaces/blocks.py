"""What methods that act on whole blocks declare alike: the blocks, their paths, adapter sizes.

A block is everything from what enters an attention or feed-forward layer to what it adds to
the residual stream, so its input and its output are as wide as the stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import Dimension
from autopeft.search_spaces.targets import BLOCK_NAMES, pattern_of, placed_on

#: Sizes of AutoPEFT's space (arXiv 2301.12132, table 6) for a width of 768; 0 is "off".
SIZES_OF_768 = (1, 3, 6, 12, 24, 48, 96, 192, 384, 768)


def sizes_for(width: int) -> tuple[int, ...]:
    """Return the bottleneck sizes offered for a width: AutoPEFT's fractions of it.

    They are ``width * size / 768``, rounded, at least 1, each once. For a width of 768 they are
    AutoPEFT's sizes themselves.
    """
    return tuple(sorted({max(1, round(width * size / 768)) for size in SIZES_OF_768}))


def bottleneck_dimension(shape: ModelShape) -> Dimension:
    """Declare ``bottleneck``, by default 1/16 of the width."""
    sizes = sizes_for(shape.hidden_size)
    default = min(sizes, key=lambda size: (abs(size - shape.hidden_size / 16), size))
    return Dimension(
        name="bottleneck",
        kind="ordinal",
        values=sizes,
        default=default,
        help="Width inside the adapter; parameters grow with it.",
    )


def activation_dimension() -> Dimension:
    """Declare ``activation``.

    The default is GELU, as in the code of Houlsby et al. A bottleneck of one or two units that
    are rectified may be zero for every token, and then never learns.
    """
    return Dimension(
        name="activation",
        kind="categorical",
        values=("gelu", "relu", "silu"),
        default="gelu",
        help="Function between the two projections of an adapter.",
    )


def block_dimension(
    shape: ModelShape, *, default: Iterable[str] = ("ffn_block", "mixer_block"), help: str
) -> Dimension:
    """Declare ``sites`` over the blocks that the model has.

    ``values`` is empty where it has none; the method is then unavailable on it.
    """
    have = {block.site for block in shape.blocks}
    values = tuple(name for name in BLOCK_NAMES if name in have)
    chosen = tuple(name for name in values if name in set(default)) or values
    return Dimension(name="sites", kind="subset", values=values, default=chosen, help=help)


def num_blocks(shape: ModelShape, module: Module) -> int:
    """Return on how many blocks a module is put."""
    return sum(len(layers) for _, layers in placed_on(shape, module))


def block_arguments(
    shape: ModelShape, module: Module, *, inputs: bool = False
) -> Mapping[str, Any]:
    """Return what every config of such a method holds.

    Args:
        shape: The model.
        module: With the setting ``sites``.
        inputs: Whether the method reads what enters the block.
    """
    placed = tuple(placed_on(shape, module))
    arguments: dict[str, Any] = {
        "target_modules": pattern_of(placed, end=True),
        "width": shape.hidden_size,
    }
    if inputs:
        arguments["block_inputs"] = {
            site.end_path_in(layer): site.path_in(layer)
            for site, layers in placed
            for layer in layers
        }
    return arguments
