"""Rows to numbers, for what is trained and scored on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from autopeft.workers.data.tokenization import padding_token
from autopeft.workers.dataset import DataSplits, EncodedData, SplitName

if TYPE_CHECKING:
    from autopeft.workers.tasks.base import EncodingSettings, LabelEncoding, Task


def encode_splits(
    task: Task,
    splits: DataSplits,
    encoding: LabelEncoding,
    processor: Any,
    settings: EncodingSettings,
    *,
    score_on: Literal["validation", "test"] = "validation",
) -> EncodedData:
    """Encode what is trained and scored on; in a search the test split stays closed.

    Args:
        task: Knows how.
        splits: The rows.
        encoding: Their labels as numbers.
        processor: The model's tokenizer, or its image or audio processor.
        settings: How examples are made; only training examples are packed.
        score_on: The split to score on. ``test`` is for finalists only; its rows then stand
            under ``validation``.

    Raises:
        AutopeftError: rows and processor do not go together.
    """
    scored: tuple[SplitName, SplitName] = ("train", score_on)
    train, validation = (
        task.encode(splits.splits[split], encoding.labels[split], processor, settings)
        for split in scored
    )
    return EncodedData(
        train=task.pack(train, settings),
        validation=validation,
        pad_token_id=padding_token(processor) if task.modality == "text" else 0,
    )
