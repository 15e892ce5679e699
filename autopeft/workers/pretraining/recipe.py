"""What a built-in language model is made of and how it is pretrained; no torch is imported.

A recipe is data: two builds by one recipe, on equal versions of the libraries and with equal
numbers of threads, give equal files. Whatever changes the result of a build changes
:data:`RECIPE_VERSION`, and with it the folder that a build is kept in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from autopeft.errors import ModelError
from autopeft.naming import counted, or_nearest
from autopeft.workers.source_code import STANDARD_LIBRARY

RECIPE_VERSION = 1

#: Import name -> name of its distribution: what is read for pretraining. All are brought by
#: AutoPEFT's own dependencies; one that is not there is left out, and the card says so. The
#: libraries of ``data.signatures`` are not among them: they are for fine-tuning.
PRETRAINING_LIBRARIES: Mapping[str, str] = {
    STANDARD_LIBRARY: "python",
    "accelerate": "accelerate",
    "botorch": "botorch",
    "ConfigSpace": "ConfigSpace",
    "gpytorch": "gpytorch",
    "huggingface_hub": "huggingface_hub",
    "joblib": "joblib",
    "linear_operator": "linear_operator",
    "mpmath": "mpmath",
    "narwhals": "narwhals",
    "numpy": "numpy",
    "pandas": "pandas",
    "peft": "peft",
    "plotly": "plotly",
    "pydantic": "pydantic",
    "ray": "ray",
    "rich": "rich",
    "scipy": "scipy",
    "torch": "torch",
    "transformers": "transformers",
    "typer": "typer",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Architecture, data and training of one model.

    Attributes:
        name: What follows ``builtin:``.
        vocab_size: Tokens of its byte-level BPE tokenizer, special tokens included.
        hidden_size: Width of the residual stream.
        num_layers: Decoder layers.
        num_heads: Query heads.
        num_key_value_heads: Key and value heads.
        intermediate_size: Width inside the gated FFN.
        max_positions: Positions that the configuration allows.
        num_tokens: Tokens of a training sequence.
        batch_size: Sequences of an optimiser step.
        steps: Optimiser steps.
        learning_rate: Peak, after linear warm-up; it falls along half a cosine to a tenth.
        warmup_steps: Steps with a growing learning rate.
        weight_decay: Of the layers' matrices.
        num_per_library: Docstrings taken from a library at most.
        libraries: Import names to read, of :data:`PRETRAINING_LIBRARIES`.
        evaluation_steps: A held-out loss is measured each time this many steps are done.
        num_evaluation_sequences: Held-out sequences behind each point of the curve.
        num_final_sequences: Held-out sequences behind the perplexity on the card, at most.
        checkpoint_steps: Steps between two checkpoints; a build that was stopped loses at most
            these.
        seed: Of modules, order, weights.
        minutes: What a build takes on two idle cores, for messages; measured.
        most_minutes: What it took at most there; None where that is not worth a word.
    """

    name: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_key_value_heads: int
    intermediate_size: int
    max_positions: int
    num_tokens: int
    batch_size: int
    steps: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    num_per_library: int
    libraries: tuple[str, ...]
    evaluation_steps: int
    num_evaluation_sequences: int
    num_final_sequences: int
    checkpoint_steps: int
    seed: int
    minutes: float
    most_minutes: float | None = None

    @property
    def key(self) -> str:
        """Name of the folder a build is kept in."""
        return f"{self.name}-v{RECIPE_VERSION}-seed{self.seed}"

    @property
    def duration(self) -> str:
        """How long a build takes, for people."""
        most = "" if self.most_minutes is None else f", at most {self.most_minutes:g}"
        return f"about {counted(self.minutes, 'minute')} on two idle cores{most}"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return {"recipe_version": RECIPE_VERSION, **asdict(self), "libraries": [*self.libraries]}


RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="docstring-lm",
            vocab_size=4096,
            hidden_size=256,
            num_layers=6,
            num_heads=4,
            num_key_value_heads=2,
            intermediate_size=640,
            max_positions=512,
            num_tokens=256,
            batch_size=12,
            steps=1000,
            learning_rate=5e-3,
            warmup_steps=50,
            weight_decay=0.1,
            num_per_library=6000,
            libraries=tuple(PRETRAINING_LIBRARIES),
            evaluation_steps=100,
            num_evaluation_sequences=64,
            num_final_sequences=400,
            checkpoint_steps=50,
            seed=0,
            minutes=20,
            most_minutes=25,
        ),
        Recipe(
            name="docstring-lm-tiny",
            vocab_size=512,
            hidden_size=64,
            num_layers=2,
            num_heads=4,
            num_key_value_heads=2,
            intermediate_size=128,
            max_positions=256,
            num_tokens=64,
            batch_size=8,
            steps=60,
            learning_rate=1e-2,
            warmup_steps=5,
            weight_decay=0.1,
            num_per_library=300,
            libraries=("accelerate", "botorch", "gpytorch", "rich"),
            evaluation_steps=30,
            num_evaluation_sequences=8,
            num_final_sequences=16,
            checkpoint_steps=20,
            seed=0,
            minutes=0.1,
        ),
    )
}


def get_recipe(name: str) -> Recipe:
    """Return the recipe called ``name``, with or without ``builtin:``.

    Raises:
        ModelError: there is none.
    """
    plain = name.removeprefix("builtin:")
    if plain not in RECIPES:
        raise ModelError(
            f"there is no recipe {name!r}{or_nearest(plain, RECIPES)}",
            hint=f"choose one of: {', '.join(RECIPES)}",
        )
    return RECIPES[plain]
