"""Texts to tokens: flat NumPy arrays without padding, which Ray shares without copying."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autopeft.errors import ModelError
from autopeft.workers.dataset import DataSplits, Rows, SplitName, TokenizedData, TokenizedSplit
from autopeft.workers.tasks.base import LabelEncoding

#: Rows handed to the tokenizer at once; bounds the memory its Python lists take.
_NUM_ROWS_AT_ONCE = 2000


def tokenize(
    splits: DataSplits,
    encoding: LabelEncoding,
    tokenizer: Any,
    max_tokens: int,
    *,
    score_on: Literal["validation", "test"] = "validation",
) -> TokenizedData:
    """Tokenise what is trained and scored on; in a search the test split stays closed.

    Args:
        splits: The rows.
        encoding: Their labels as numbers.
        tokenizer: A fast tokenizer of transformers.
        max_tokens: Longer examples are truncated, special tokens included; of a pair, the
            longer text first.
        score_on: The split to score on. ``test`` is for finalists only; its rows then stand
            under ``validation``.

    Raises:
        ModelError: the tokenizer has no token that can pad a batch.
    """
    pad_token_id = tokenizer.pad_token_id
    if pad_token_id is None:
        pad_token_id = tokenizer.eos_token_id
    if pad_token_id is None:
        raise ModelError(
            "the model's tokenizer has neither a padding token nor an end-of-text token",
            hint="choose a model whose tokenizer defines pad_token",
        )
    scored: tuple[SplitName, SplitName] = ("train", score_on)
    train, validation = (
        tokenize_split(splits.splits[split], encoding.labels[split], tokenizer, max_tokens)
        for split in scored
    )
    return TokenizedData(train=train, validation=validation, pad_token_id=int(pad_token_id))


def tokenize_split(
    rows: Rows, labels: NDArray[Any], tokenizer: Any, max_tokens: int
) -> TokenizedSplit:
    """Tokenise one split; row i of the result is row i of ``rows``."""
    has_types = "token_type_ids" in tokenizer.model_input_names
    lengths: list[int] = []
    input_ids: list[NDArray[np.int32]] = []
    token_types: list[NDArray[np.int8]] = []
    for start in range(0, len(rows), _NUM_ROWS_AT_ONCE):
        chunk = slice(start, start + _NUM_ROWS_AT_ONCE)
        encoded = tokenizer(
            rows.text[chunk],
            None if rows.text_pair is None else rows.text_pair[chunk],
            truncation=True,
            max_length=max_tokens,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=has_types,
        )
        lengths += [len(ids) for ids in encoded["input_ids"]]
        input_ids.append(np.concatenate([np.array(x, np.int32) for x in encoded["input_ids"]]))
        if has_types:
            types = [np.array(x, np.int8) for x in encoded["token_type_ids"]]
            token_types.append(np.concatenate(types))
    return TokenizedSplit(
        input_ids=np.concatenate(input_ids),
        token_type_ids=np.concatenate(token_types) if has_types else None,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        labels=labels,
    )
