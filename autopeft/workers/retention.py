"""Retention: how much worse a base model does at general text once it is fine-tuned.

The rise of the loss on a probe set, in nats a token: the loss with the trained configuration
minus the loss of the frozen base model. 0 is a model that forgets nothing; more is worse. The
probe is a file of the user's, or documentation of installed libraries that neither
``builtin:docstring-lm`` nor a data set of AutoPEFT's own trains on. It is not available for
models that write no text of their own accord: only causal language models have such a loss.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from autopeft.errors import DataError, InvalidJobError
from autopeft.workers.data.files import read_file
from autopeft.workers.data.language import encode_language
from autopeft.workers.dataset import EncodedSplit, Rows
from autopeft.workers.settings import RetentionSettings
from autopeft.workers.tasks.metric_names import CAUSAL_LM


def read_probe(
    settings: RetentionSettings, *, base: Path, task: str, tokenizer: Any, seed: int
) -> EncodedSplit:
    """Return the probe set as tokens that are all trained on, never to be trained on.

    Args:
        settings: The user's file, how many rows and tokens.
        base: Folder that a relative file starts from.
        task: Name of the job's task.
        tokenizer: The model's.
        seed: Draws the rows where there are more.

    Raises:
        InvalidJobError: the task is no causal language model.
        DataError: the file cannot be read or has no column of texts.
    """
    if task != CAUSAL_LM:
        raise InvalidJobError(
            f"retention is the loss on general text, which a model for {task} does not have",
            hint=f"leave retention out; it is available for the task {CAUSAL_LM}",
        )
    if settings.data is None:
        from autopeft.workers.pretraining.corpus import read_held_out

        texts = read_held_out(settings.rows)
    else:
        texts = _read_texts(settings, base)
        chosen = np.random.default_rng([seed, 11]).permutation(len(texts))[: settings.rows]
        texts = [texts[row] for row in np.sort(chosen)]
    rows = Rows.of_texts(texts, [None] * len(texts))
    return encode_language(rows, tokenizer, settings.max_tokens)


class Retention:
    """The rise of the loss on a probe set.

    Args:
        probe: As :func:`read_probe` returns it.
        mean_loss: Returns the loss of a model on the probe, in nats a token.
        base: The frozen base model; its loss is computed when first asked for.
    """

    def __init__(
        self, probe: EncodedSplit, mean_loss: Callable[[Any, EncodedSplit], float], base: Any
    ) -> None:
        self._probe = probe
        self._mean_loss = mean_loss
        self._base = base
        self._base_loss: float | None = None

    def rise(self, model: Any) -> float:
        """Return the loss of a fine-tuned model minus that of the base, in nats a token."""
        if self._base_loss is None:
            self._base_loss = self._mean_loss(self._base, self._probe)
        return self._mean_loss(model, self._probe) - self._base_loss


def _read_texts(settings: RetentionSettings, base: Path) -> list[str]:
    assert settings.data is not None
    table = read_file(base / settings.data, settings.data)
    if settings.column not in table.columns:
        raise DataError(
            f"retention.data: {settings.data} has no column {settings.column!r}; it has "
            f"{', '.join(table.columns)}",
            hint="name the column with the texts in retention.column",
        )
    texts = [text for text in table.columns[settings.column] if isinstance(text, str)]
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise DataError(
            f"retention.data: column {settings.column!r} of {settings.data} holds no text"
        )
    return texts
