"""Trainable tokens: train the embeddings of chosen tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, LearningRateRange
from autopeft.search_spaces.methods._needs_more import NeedsMore


@METHODS.register("trainable-tokens")
class TrainableTokens(NeedsMore):
    """PEFT's own: new rows for some tokens, for example those added to a vocabulary."""

    name = "trainable-tokens"
    title = "Trainable tokens"
    family = "embeddings"
    paper = "PEFT 0.15, no paper"
    peft_type = "TRAINABLE_TOKENS"
    needs = "someone has to say which tokens: their numbers are no matter of search"
    is_mergeable = True
    # PEFT's published run trains two tokens at 0.2.
    learning_rate = LearningRateRange(low=1e-2, default=1e-1, high=1.0)

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count a row for each token."""
        tokens = module["tokens"]
        assert isinstance(tokens, tuple)
        return len(tokens) * shape.sites_called("token_embedding")[0].out_features

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of ``peft.TrainableTokensConfig``."""
        tokens = module["tokens"]
        assert isinstance(tokens, tuple)
        return {
            "peft_type": self.peft_type,
            "token_indices": [int(token) for token in tokens],
            "target_modules": [shape.sites_called("token_embedding")[0].path],
        }

    def published(self, shape: ModelShape, config: Mapping[str, Any]) -> Module:
        """Return the tokens of a published config."""
        tokens = config["token_indices"]
        if not isinstance(tokens, list):
            raise ValueError("it trains tokens of several embeddings")
        return Module.of(
            self.name, tuple(range(shape.num_layers)), tokens=tuple(str(each) for each in tokens)
        )
