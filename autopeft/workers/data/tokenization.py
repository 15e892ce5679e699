"""Texts to tokens: flat NumPy arrays without padding, which Ray shares without copying."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopeft.errors import ModelError
from autopeft.workers.dataset import INPUT_IDS, EncodedSplit, Field, Rows

#: Rows handed to the tokenizer at once; bounds the memory its Python lists take.
NUM_ROWS_AT_ONCE = 2000


def padding_token(tokenizer: Any) -> int:
    """Return the token that fills batches.

    Raises:
        ModelError: the tokenizer has no token that can pad a batch.
    """
    token = tokenizer.pad_token_id
    if token is None:
        token = tokenizer.eos_token_id
    if token is None:
        raise ModelError(
            "the model's tokenizer has neither a padding token nor an end-of-text token",
            hint="choose a model whose tokenizer defines pad_token",
        )
    return int(token)


def ragged(
    examples: Sequence[Sequence[int] | NDArray[Any]], dtype: type[np.generic], fill: float = 0
) -> Field:
    """Return a ragged field of examples that are lists of numbers."""
    arrays = [np.asarray(example, dtype) for example in examples]
    return Field(
        values=np.concatenate([np.empty(0, dtype), *arrays]),
        offsets=np.concatenate([[0], np.cumsum([len(a) for a in arrays])]).astype(np.int64),
        fill=fill,
    )


def encode_texts(rows: Rows, labels: NDArray[Any], tokenizer: Any, max_tokens: int) -> EncodedSplit:
    """Tokenise texts or pairs of texts; example i of the result is row i of ``rows``.

    Args:
        rows: The rows.
        labels: Their labels as numbers.
        tokenizer: A tokenizer of transformers.
        max_tokens: Longer examples are truncated, special tokens included; of a pair, the
            longer text first.
    """
    has_types = "token_type_ids" in tokenizer.model_input_names
    lengths: list[int] = []
    input_ids: list[NDArray[np.int32]] = []
    token_types: list[NDArray[np.int8]] = []
    for start in range(0, len(rows), NUM_ROWS_AT_ONCE):
        chunk = slice(start, start + NUM_ROWS_AT_ONCE)
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
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    fields = {
        INPUT_IDS: Field(
            values=np.concatenate(input_ids), offsets=offsets, fill=padding_token(tokenizer)
        )
    }
    if has_types:
        fields["token_type_ids"] = Field(values=np.concatenate(token_types), offsets=offsets)
    return EncodedSplit(fields=fields, labels=labels)
