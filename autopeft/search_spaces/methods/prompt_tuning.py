"""Prompt tuning: learned embeddings in front of the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Module, Setting
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._prompt import Prompt, refuse


@METHODS.register("prompt-tuning")
class PromptTuning(Prompt):
    """Lester et al. 2021 (section 2 of arXiv 2104.08691).

    The prompt starts at random numbers or at embeddings of random words (section 3.2). In an
    encoder and decoder it stands in front of the encoder's text, as in the paper.
    """

    name = "prompt-tuning"
    title = "Prompt tuning"
    paper = "arXiv 2104.08691"
    peft_type = "PROMPT_TUNING"
    lengths = (1, 2, 4, 8, 16, 32, 64, 128)
    # The paper trains at 0.3 with Adafactor; PEFT's published run at 1e-3 stayed far below LoRA.
    learning_rate = LearningRateRange(low=1e-3, default=3e-2, high=5e-1)

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return length and start."""
        return (
            self.length_dimension(shape, 16, "Virtual tokens in front of the text."),
            Dimension(
                name="start",
                kind="categorical",
                values=("words", "random"),
                default="words",
                help="Start at embeddings of random words, or at random numbers.",
            ),
        )

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count an embedding for each virtual token."""
        return self.length(module) * shape.hidden_size

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of ``peft.PromptTuningConfig``."""
        return {
            "peft_type": self.peft_type,
            "num_virtual_tokens": module["prompt_length"],
            "prompt_tuning_init": "SAMPLE_VOCAB" if module["start"] == "words" else "RANDOM",
            "num_layers": shape.num_layers,
            "num_attention_heads": shape.num_attention_heads,
            "token_dim": shape.hidden_size,
            "num_transformer_submodules": 1,
        }

    def settings_from_peft(
        self, shape: ModelShape, config: Mapping[str, Any]
    ) -> Mapping[str, Setting]:
        """Return length and start."""
        refuse(config, ["prompt_tuning_init_text"])
        words = config.get("prompt_tuning_init") == "SAMPLE_VOCAB"
        return {
            **super().settings_from_peft(shape, config),
            "start": "words" if words else "random",
        }
