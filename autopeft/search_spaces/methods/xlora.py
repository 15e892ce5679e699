"""X-LoRA: trained LoRA adapters, mixed by a network for each token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, LearningRateRange
from autopeft.search_spaces.methods._needs_more import NeedsMore


@METHODS.register("xlora")
class XLora(NeedsMore):
    """Buehler and Buehler 2024 (section 2 of arXiv 2402.07148)."""

    name = "xlora"
    title = "X-LoRA"
    family = "low-rank"
    paper = "arXiv 2402.07148"
    peft_type = "XLORA"
    needs = "it mixes LoRA adapters that have to be trained before"
    starts_as_base = False
    # The paper trains the mixing network at 1e-3 and below.
    learning_rate = LearningRateRange(low=1e-5, default=1e-4, high=1e-3)

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count the mixing network with one linear layer: a weight for each adapter."""
        adapters = module["adapters"]
        assert isinstance(adapters, tuple)
        return (shape.hidden_size + 1) * len(adapters)

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of ``peft.XLoraConfig``."""
        adapters = module["adapters"]
        assert isinstance(adapters, tuple)
        return {
            "peft_type": self.peft_type,
            "hidden_size": shape.hidden_size,
            "adapters": {str(number): folder for number, folder in enumerate(adapters)},
        }
