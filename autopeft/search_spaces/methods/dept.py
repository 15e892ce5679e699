"""DePT: a short soft prompt, and a low-rank update of the text's embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange, Method
from autopeft.search_spaces.methods._matrices import whole
from autopeft.search_spaces.targets import pattern_of

LENGTHS = (1, 2, 4, 8, 16, 32, 64)
RANKS = (1, 2, 4, 8, 16, 32)
MAX_TOKENS = 256
RATE_RATIOS = (0.001, 0.003, 0.01, 0.03, 0.1)


@METHODS.register("dept")
class Dept(Method):
    """Shi and Lipani 2024: at equal numbers shorter than a prompt alone, so quicker.

    The prompt stands in front of the text, or behind its first token where an encoder
    classifies by that. It takes positions, and tokens, of the longest batch.
    """

    name = "dept"
    title = "DePT (decomposed prompt)"
    family = "prompt"
    paper = "arXiv 2309.05173"
    saved_as = "ours"
    is_placeable = False
    # Other soft prompts hand over embeddings, and this one takes tokens.
    exclusive = frozenset({"prompt"})
    starts_as_base = False
    module_file = "autopeft.workers.modules.dept"
    tasks = frozenset(
        {"causal-lm", "classification", "multiple-choice", "regression", "token-classification"}
    )
    # The prompt's rate; the factors train at a part of it. The paper uses 0.3 to 0.5 for prompts
    # in T5, whose embeddings are some hundred times larger than BERT's.
    learning_rate = LearningRateRange(low=3e-3, default=3e-2, high=3e-1)

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return length, rank and the ratio of the two learning rates."""
        return (
            Dimension(
                name="num_virtual_tokens",
                kind="ordinal",
                values=_fitting(shape),
                default=8 if 8 in _fitting(shape) else max(_fitting(shape), default=8),
                help="Virtual tokens in the text.",
            ),
            Dimension(
                name="rank",
                kind="ordinal",
                values=tuple(rank for rank in RANKS if rank <= shape.hidden_size),
                default=min(8, shape.hidden_size),
                help="Rank of the update of the text's embeddings.",
            ),
            Dimension(
                name="rate_ratio",
                kind="ordinal",
                values=RATE_RATIOS,
                default=0.01,
                help="Learning rate of the update as a part of the prompt's.",
            ),
        )

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count ``m d`` for the prompt and ``r (s + d)`` for the update."""
        settings = module.as_dict()
        prompt = whole(settings, "num_virtual_tokens") * shape.hidden_size
        return prompt + whole(settings, "rank") * (_max_tokens(shape) + shape.hidden_size)

    def inference_extra_flops(self, shape: ModelShape, module: Module) -> int:
        """Return two for each number added to one token's embedding."""
        return 2 * whole(module.as_dict(), "rank") * shape.hidden_size

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of the config."""
        keeps_first = shape.task != "causal-lm" and "past_key_values" not in shape.forward_arguments
        return {
            "peft_type": "AUTOPEFT_DEPT",
            "target_modules": pattern_of((site, ()) for site in shape.sites_called(_TOKENS)),
            "num_virtual_tokens": module["num_virtual_tokens"],
            "rank": module["rank"],
            "rate_ratio": module["rate_ratio"],
            "max_tokens": _max_tokens(shape),
            "place": 1 if keeps_first else 0,
        }

    def unavailable(self, shape: ModelShape) -> str | None:
        """Refuse what is no text, and texts that leave no position for a prompt."""
        sites = shape.sites_called(_TOKENS)
        if len(sites) != 1 or sites[0].out_features != shape.hidden_size:
            return f"{shape.model_type} has no single token embedding of the model's width"
        if not _fitting(shape):
            return f"the longest batch leaves {shape.num_free_positions} of the model's positions"
        return super().unavailable(shape)


_TOKENS = "token_embedding"


def _fitting(shape: ModelShape) -> tuple[int, ...]:
    """Return the lengths that leave room for text: half the positions where nothing is known."""
    free = shape.num_free_positions
    if free is None and (positions := _positions(shape)):
        free = positions // 2
    return tuple(length for length in LENGTHS if free is None or length <= free)


def _max_tokens(shape: ModelShape) -> int:
    """Return how many tokens of a text are updated: no more than the model has positions."""
    return min(MAX_TOKENS, _positions(shape) or MAX_TOKENS)


def _positions(shape: ModelShape) -> int:
    """Return the rows of the position embedding, 0 where there is none."""
    rows = [site.in_features for site in shape.sites_called("position_embedding")]
    return min(rows, default=0)
