"""Cartridge: a cache of keys and values trained as it is, its first tokens kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Module, Setting
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods.prefix import KeyValuePrefix


@METHODS.register("cartridge")
class Cartridge(KeyValuePrefix):
    """Eyuboglu et al. 2025 (section 3 of arXiv 2506.06266), started at random.

    Frozen first tokens serve as an attention sink. The paper starts from the cache of a real
    text and distils; a search starts at random and trains on the task.
    """

    name = "cartridge"
    title = "Cartridge"
    paper = "arXiv 2506.06266"
    peft_type = "CARTRIDGE"
    lengths: ClassVar[tuple[int, ...]] = (2, 4, 8, 16, 32, 64)
    # As for a prefix: the cache starts at random with unit variance.
    learning_rate = LearningRateRange(low=1e-3, default=1e-2, high=1e-1)

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return the length and how many tokens of it stay frozen."""
        return (
            self.length_dimension(shape, 16, "Virtual tokens in front of the text."),
            Dimension(
                name="frozen_tokens",
                kind="ordinal",
                values=(0, 1),
                default=1,
                help="First virtual tokens that stay as they start.",
            ),
        )

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count the tokens that are not frozen."""
        frozen = module["frozen_tokens"]
        assert isinstance(frozen, int)
        return (self.length(module) - frozen) * self.width(shape)

    def num_saved_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count all tokens."""
        return self.length(module) * self.width(shape)

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of ``peft.CartridgeConfig``."""
        frozen = module["frozen_tokens"]
        return {**self.cache_arguments(shape, module), "num_frozen_tokens": frozen}

    def settings_from_peft(
        self, shape: ModelShape, config: Mapping[str, Any]
    ) -> Mapping[str, Setting]:
        """Return length and frozen tokens."""
        length = super().settings_from_peft(shape, config)
        return {**length, "frozen_tokens": config["num_frozen_tokens"]}
