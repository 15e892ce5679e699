"""P-tuning: a prompt computed by a small network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Module, Setting
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._prompt import Prompt

HIDDEN_SIZES = (32, 64, 128, 256, 512, 1024)


@METHODS.register("p-tuning")
class PTuning(Prompt):
    """Liu et al. 2021 (section 3.2 of arXiv 2103.10385) with a perceptron of two hidden layers.

    The network serves training alone: the file holds the prompt it computes.
    """

    name = "p-tuning"
    title = "P-tuning"
    paper = "arXiv 2103.10385"
    peft_type = "P_TUNING"
    # PEFT's published run at 1e-4 for 5,000 steps did better than plain prompts at 1e-3: the
    # network amplifies its steps. Shifted up as for LoRA.
    learning_rate = LearningRateRange(low=2e-4, default=3e-3, high=3e-2)

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return length and width of the network."""
        sizes = tuple(size for size in HIDDEN_SIZES if size <= shape.hidden_size)
        return (
            self.length_dimension(shape, 16, "Virtual tokens in front of the text."),
            Dimension(
                name="hidden_size",
                kind="ordinal",
                values=sizes,
                default=min(sizes, key=lambda size: abs(size - 128), default=128),
                help="Width of the network that computes the prompt.",
            ),
        )

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count the embeddings and three linear layers."""
        width, hidden = shape.hidden_size, module["hidden_size"]
        assert isinstance(hidden, int)
        network = (width + 1) * hidden + (hidden + 1) * hidden + (hidden + 1) * width
        return self.length(module) * width + network

    def num_saved_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count the prompt that the network computes."""
        return self.length(module) * shape.hidden_size

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of ``peft.PromptEncoderConfig``."""
        return {
            "peft_type": self.peft_type,
            "num_virtual_tokens": module["prompt_length"],
            "encoder_reparameterization_type": "MLP",
            "encoder_hidden_size": module["hidden_size"],
            "num_layers": shape.num_layers,
            "num_attention_heads": shape.num_attention_heads,
            "token_dim": shape.hidden_size,
            "num_transformer_submodules": 1,
        }

    def settings_from_peft(
        self, shape: ModelShape, config: Mapping[str, Any]
    ) -> Mapping[str, Setting]:
        """Return length and width."""
        if config.get("encoder_reparameterization_type", "MLP") != "MLP":
            raise ValueError("its prompt is computed by an LSTM")
        return {
            **super().settings_from_peft(shape, config),
            "hidden_size": config["encoder_hidden_size"],
        }
