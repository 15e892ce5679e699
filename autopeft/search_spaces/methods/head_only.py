"""Train the head and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange, Method
from autopeft.search_spaces.methods.embeddings import LANGUAGE_MODELS


@METHODS.register("head-only")
class HeadOnly(Method):
    """Linear probing (Alain and Bengio 2016): the body of the model is a fixed encoder.

    The head of a task trains under every method; this one adds nothing to it, and so trains
    what a configuration without modules trains. A language model has no new head: there its
    output layer trains, untied from the token embedding.
    """

    name = "head-only"
    title = "Head only"
    family = "selective"
    paper = "arXiv 1610.01644"
    saved_as = "ours"
    is_mergeable = True
    is_placeable = False
    is_combinable = False
    module_file = "autopeft.workers.modules.embeddings"
    # A convex problem in the head: rates far above those of fine-tuning work, and about a
    # hundred steps need them.
    learning_rate = LearningRateRange(low=1e-3, default=1e-2, high=1e-1)

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return nothing: there is nothing to set."""
        return ()

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count the output layer of a language model, else nothing beside the head."""
        return shape.vocab_size * shape.hidden_size if shape.num_head_parameters == 0 else 0

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of the config."""
        if shape.num_head_parameters:
            # PEFT's marker for an adapter that matches no module: the head alone trains.
            return {"peft_type": "LORA", "r": 1, "target_modules": "dummy-target-modules"}
        return {"peft_type": "AUTOPEFT_OUTPUT"}

    def can_merge(self, shape: ModelShape, module: Module) -> bool:
        """Refuse a tied output layer, which merging would untie."""
        return bool(shape.num_head_parameters) or not shape.has_tied_embeddings

    def unavailable(self, shape: ModelShape) -> str | None:
        """Refuse models with neither head nor output layer."""
        if shape.num_head_parameters == 0 and shape.task not in LANGUAGE_MODELS:
            return f"{shape.model_type} has no head for {shape.task}"
        return super().unavailable(shape)
