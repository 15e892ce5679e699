"""What a job says about pictures and recordings, and how bytes of them are told apart."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from autopeft.errors import DataError
from autopeft.workers.data.columns import ChosenColumns
from autopeft.workers.data.labels import is_missing
from autopeft.workers.data.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaSettings:
    """How values that are pictures or recordings are read.

    Attributes:
        folder: Where relative paths of files start.
        image_shape: Height, width and channels of pictures that are bytes of pixels; found out
            where None.
        sample_rate: Samples per second of recordings that do not say it themselves.
    """

    folder: Path = Path()
    image_shape: tuple[int, ...] | None = None
    sample_rate: int | None = None


def refuse_missing(table: Table, columns: ChosenColumns) -> None:
    """Raise ``DataError`` where a value is not there."""
    for name in columns.text:
        for row, value in enumerate(table.columns[name]):
            if is_missing(value):
                raise DataError(
                    f"{table.where(row)}: column {name!r} is empty",
                    hint="remove the row, or name another column in data.columns",
                )


def from_base64(text: str, where: str, column: str) -> bytes:
    """Return the bytes that a text stands for.

    Raises:
        DataError: it is not base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        shown = text if len(text) <= 40 else text[:37] + "..."
        raise DataError(
            f"{where}: column {column!r} holds {shown!r}, which is neither base64 nor the name of "
            "a file of a known kind",
            hint="write bytes in base64, or paths that end in .png, .jpg or .wav",
        ) from error


def read_bytes(path: Path, where: str, column: str) -> bytes:
    """Return a file's content.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{where}: column {column!r} names {path.name!r}, which cannot be read: "
            f"{error.strerror or error}",
            hint="paths are relative to the job file's folder",
        ) from error


def content_key(value: bytes | NDArray[Any]) -> str:
    """Return what two values share where they are equal byte for byte."""
    content = value if isinstance(value, bytes) else value.tobytes()
    return hashlib.sha256(content).hexdigest()
