"""A split as its source gives it: named columns of plain Python values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autopeft.workers.data.media import MediaSettings


class DataWarning(UserWarning):
    """Some of the data, or something said about it, was left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One split before columns are chosen.

    Attributes:
        columns: Values by column name; every column has the same length, None is missing.
        origin: For messages: the file as the user wrote it, or the split of a hub data set.
        lines: Line of each row in its file; None where rows have no lines.
        is_typed: Whether numbers are numbers; False for CSV, where everything is text.
        label_names: By column of integers, or of lists of them: the names of 0, 1, ... where
            the source or the job tells them.
        media: What the job says about pictures and recordings.
    """

    columns: Mapping[str, list[Any]]
    origin: str
    lines: list[int] | None = None
    is_typed: bool = True
    label_names: Mapping[str, tuple[str, ...]] | None = None
    media: MediaSettings | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def where(self, row: int) -> str:
        """Name the place of a row, for a message."""
        if self.lines is not None:
            return f"{self.origin}, line {self.lines[row]}"
        return f"{self.origin}, row {row}"
