"""Rows and examples, as plain lists and NumPy arrays that Ray shares without copying."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

SplitName = Literal["train", "validation", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = ("train", "validation", "test")

#: The field whose tokens tell how long an example is, where a split has it.
INPUT_IDS = "input_ids"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """One split as read: its columns by role, and labels as given.

    Attributes:
        columns: By role, one value a row: ``text`` and, for pairs, ``text_pair``; ``messages``;
            ``prompt`` and ``completion``; whatever the task reads.
        label: ``str`` or ``int`` for classes, ``float`` for amounts, None where a task has no
            labels besides its columns.
    """

    columns: Mapping[str, list[Any]]
    label: list[Any]

    @classmethod
    def of_texts(
        cls, text: Sequence[str], label: Sequence[Any], text_pair: Sequence[str] | None = None
    ) -> Rows:
        """Return rows of texts, or of pairs of texts."""
        columns = {"text": list(text)}
        if text_pair is not None:
            columns["text_pair"] = list(text_pair)
        return cls(columns=columns, label=list(label))

    @property
    def text(self) -> list[str]:
        """The texts, or the first ones of pairs."""
        return self.columns["text"]

    @property
    def text_pair(self) -> list[str] | None:
        """The second texts of pairs; None where there are none."""
        return self.columns.get("text_pair")

    def take(self, indices: Sequence[int]) -> Rows:
        """Return the rows at ``indices``, in that order."""
        return Rows(
            columns={role: [values[i] for i in indices] for role, values in self.columns.items()},
            label=[self.label[i] for i in indices],
        )

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSplits:
    """The three splits of a job.

    Attributes:
        splits: Rows by split name; all three are there and none is empty.
        text_columns: Names of the columns a model sees, as the source calls them.
        label_column: Name of the label column; None where the task has none.
        label_names: Names of integer labels where the source tells (hub features); else None.
        fingerprint: Hash over every row of every split, in order; equal in any process.
        provenance: JSON-able: where it came from, package versions, seeds of cuts.
    """

    splits: Mapping[SplitName, Rows]
    text_columns: tuple[str, ...]
    label_column: str | None
    label_names: tuple[str, ...] | None
    fingerprint: str
    provenance: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One input of a model for every example: ragged, or of one shape for all.

    Attributes:
        values: Ragged: all examples one after the other, without padding, ``total``. Dense:
            ``n x ...``.
        offsets: Ragged: ``n + 1`` ``int64`` positions; example i is ``[offsets[i],
            offsets[i + 1])``. None where dense.
        fill: What fills up a ragged field in a batch. ``input_ids`` are filled with the
            padding token.
    """

    values: NDArray[Any]
    offsets: NDArray[np.int64] | None = None
    fill: float = 0

    def __len__(self) -> int:
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Values of each example; 1 where dense."""
        if self.offsets is None:
            return np.ones(len(self.values), dtype=np.int64)
        return np.diff(self.offsets)

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return int(self.values.nbytes + (0 if self.offsets is None else self.offsets.nbytes))

    def example(self, index: int) -> NDArray[Any]:
        """Return the values of one example, without padding."""
        if self.offsets is None:
            one: NDArray[Any] = self.values[index]
            return one
        return self.values[self.offsets[index] : self.offsets[index + 1]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedSplit:
    """One split as numbers.

    Attributes:
        fields: Inputs of the model by the name of its forward argument. A field ``labels``
            stands here where there is a label for each token; it then is what a batch carries.
        labels: ``n`` class numbers (``int64``) or amounts (``float32``); for a language model
            the trained tokens of each example (``int64``); for tagged words ``n x w`` tag
            numbers.
        num_sequences: Sequences that make up an example: the choices of multiple choice, whose
            fields hold ``n * num_sequences`` of them, those of one example together.
        rows: ``n`` rows the examples were made of; None where every row is an example, in
            order.
    """

    fields: Mapping[str, Field]
    labels: NDArray[Any]
    num_sequences: int = 1
    rows: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """``n`` tokens of each example, of its longest sequence; 1 where inputs are dense."""
        ragged = [field for field in self.fields.values() if field.offsets is not None]
        if not ragged:
            return np.ones(len(self), dtype=np.int64)
        lengths = self.fields.get(INPUT_IDS, ragged[0]).lengths
        if self.num_sequences == 1:
            return lengths
        longest: NDArray[np.int64] = lengths.reshape(-1, self.num_sequences).max(axis=1)
        return longest

    @property
    def longest(self) -> int:
        """Most tokens of any ragged field of any example, targets included; 1 where dense."""
        ragged = [field for field in self.fields.values() if field.offsets is not None]
        return max((int(field.lengths.max()) for field in ragged), default=1)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return int(self.labels.nbytes + sum(field.nbytes for field in self.fields.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedData:
    """What a worker trains and scores on. The test split is not among it."""

    train: EncodedSplit
    validation: EncodedSplit
    pad_token_id: int
