"""Multitask prompt tuning: one prompt shared by tasks, scaled by a low-rank matrix for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, LearningRateRange
from autopeft.search_spaces.methods._needs_more import NeedsMore


@METHODS.register("multitask-prompt-tuning")
class MultitaskPromptTuning(NeedsMore):
    """Wang et al. 2023 (equation 1 of arXiv 2303.02861)."""

    name = "multitask-prompt-tuning"
    title = "Multitask prompt tuning"
    family = "prompt"
    paper = "arXiv 2303.02861"
    peft_type = "MULTITASK_PROMPT_TUNING"
    needs = "every batch has to say which of several tasks its rows are of"
    starts_as_base = False
    # The paper trains at 0.3 with Adafactor, as plain prompts.
    learning_rate = LearningRateRange(low=1e-3, default=3e-2, high=5e-1)

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count the shared prompt and two factors for each task."""
        settings: Mapping[str, Any] = module.as_dict()
        length, width = settings["prompt_length"], shape.hidden_size
        return int(length * width + settings["tasks"] * settings["rank"] * (length + width))

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of ``peft.MultitaskPromptTuningConfig``."""
        return {
            "peft_type": self.peft_type,
            "num_virtual_tokens": module["prompt_length"],
            "num_ranks": module["rank"],
            "num_tasks": module["tasks"],
            "num_transformer_submodules": 1,
        }

    def published(self, shape: ModelShape, config: Mapping[str, Any]) -> Module:
        """Return length, rank and number of tasks."""
        return Module.of(
            self.name,
            tuple(range(shape.num_layers)),
            prompt_length=config["num_virtual_tokens"],
            rank=config["num_ranks"],
            tasks=config["num_tasks"],
        )
