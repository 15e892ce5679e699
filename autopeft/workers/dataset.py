"""Rows and tokens, as plain lists and NumPy arrays that Ray shares without copying."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

SplitName = Literal["train", "validation", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = ("train", "validation", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """One split as read: texts, second texts where there are pairs, labels as given.

    Labels are ``str`` or ``int`` for classification and ``float`` for regression.
    """

    text: list[str]
    text_pair: list[str] | None
    label: list[Any]

    def __len__(self) -> int:
        return len(self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSplits:
    """The three splits of a job.

    Attributes:
        splits: Rows by split name; all three are there and none is empty.
        text_columns: Names of the one or two text columns.
        label_column: Name of the label column.
        label_names: Names of integer labels where the source tells (hub features); else None.
        fingerprint: Hash over every row of every split, in order; equal in any process.
        provenance: JSON-able: where it came from, package versions, seeds of cuts.
    """

    splits: Mapping[SplitName, Rows]
    text_columns: tuple[str, ...]
    label_column: str
    label_names: tuple[str, ...] | None
    fingerprint: str
    provenance: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedSplit:
    """One split as tokens, ragged, without padding.

    Attributes:
        input_ids: Flat ``int32`` token ids, all examples one after the other.
        token_type_ids: Flat ``int8``, same length, or None where the model has none.
        offsets: ``n + 1`` ``int64`` positions; example i is ``[offsets[i], offsets[i + 1])``.
        labels: ``n`` class numbers (``int64``) or target values (``float32``).
    """

    input_ids: NDArray[np.int32]
    token_type_ids: NDArray[np.int8] | None
    offsets: NDArray[np.int64]
    labels: NDArray[Any]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each example."""
        return np.diff(self.offsets)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedData:
    """What a worker trains and scores on. The test split is not among it."""

    train: TokenizedSplit
    validation: TokenizedSplit
    pad_token_id: int
