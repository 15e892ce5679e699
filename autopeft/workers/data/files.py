"""Local files: JSON lines, CSV and Parquet."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autopeft.errors import DataError
from autopeft.naming import did_you_mean
from autopeft.workers.data.table import Table

_CONVERT = "convert the file to JSON lines (.jsonl), CSV (.csv) or Parquet (.parquet)"


def read_file(path: Path, shown: str) -> Table:
    """Read a file by its extension.

    Args:
        path: The file.
        shown: Its name in messages, as the user wrote it.

    Raises:
        DataError: the file is missing, empty, broken, or of an unknown kind; a broken line
            is named by its number.
    """
    reader = _READERS.get(path.suffix.casefold())
    if reader is None:
        raise DataError(
            f"{shown}: cannot read files that end in {path.suffix!r}; expected "
            f"{', '.join(_READERS)}",
            hint=_CONVERT,
        )
    if not path.is_file():
        raise DataError(_missing(path, shown), hint="paths are relative to the job file's folder")
    try:
        table = reader(path, shown)
    except OSError as error:
        raise DataError(f"{shown}: cannot be read: {error.strerror or error}") from error
    if len(table) == 0:
        raise DataError(f"{shown}: there are no rows in it", hint="expected one example per row")
    return table


def _missing(path: Path, shown: str) -> str:
    if path.is_dir():
        return f"{shown}: is a folder; expected a file"
    if not path.parent.is_dir():
        return f"{shown}: there is no folder {str(Path(shown).parent)!r}"
    files = [entry.name for entry in path.parent.iterdir() if entry.suffix.casefold() in _READERS]
    return f"{shown}: there is no such file{did_you_mean(path.name, files)}"


def _read_text(path: Path, shown: str) -> str:
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{shown}, line {line}: byte {error.start} is not UTF-8; expected text in UTF-8",
            hint="save the file as UTF-8; a compressed or binary file must be converted first",
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(
            f"{shown}, line {line}: holds a zero byte; expected text in UTF-8", hint=_CONVERT
        )
    return text


def _read_jsonl(path: Path, shown: str) -> Table:
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    # Not str.splitlines, which also splits at separators that are legal inside a JSON string.
    for number, line in enumerate(_read_text(path, shown).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise DataError(
                f"{shown}, line {number}: is not JSON ({reason}): {_shorten(line)}",
                hint="expected one JSON object on each line",
            ) from error
        if not isinstance(row, dict):
            raise DataError(
                f"{shown}, line {number}: expected a JSON object, received {_shorten(line)}",
                hint='write each example as {"text": ..., "label": ...} on a line of its own',
            )
        rows.append(row)
        lines.append(number)
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    if rows and not columns:
        raise DataError(f"{shown}: its objects have no keys", hint="expected text and label")
    return Table(columns=columns, origin=shown, lines=lines)


def _read_csv(path: Path, shown: str) -> Table:
    text = _read_text(path, shown)
    delimiter = "\t" if path.suffix.casefold() == ".tsv" else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    limit = csv.field_size_limit(sys.maxsize)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        header = next(reader, [])
        _check_header(header, delimiter, shown)
        before = reader.line_num
        for row in reader:
            if row and len(row) != len(header):
                raise DataError(
                    f"{shown}, line {before + 1}: expected {len(header)} fields as in the header, "
                    f"received {len(row)}",
                    hint=f'put fields that contain "{delimiter}" or line breaks in double quotes',
                )
            if row:
                rows.append(row)
                lines.append(before + 1)
            before = reader.line_num
    except csv.Error as error:
        raise DataError(
            f"{shown}, line {reader.line_num}: is not CSV ({error})",
            hint="double the quotes inside quoted fields, and close every quoted field",
        ) from error
    finally:
        csv.field_size_limit(limit)
    columns = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    return Table(columns=columns, origin=shown, lines=lines, is_typed=False)


def _check_header(header: list[str], delimiter: str, shown: str) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"{shown}: the header names {twice[0]!r} twice", hint="rename one of them")
    if len(header) == 1:
        other = next((sign for sign in ";\t,|" if sign in header[0]), None)
        if other is not None:
            raise DataError(
                f"{shown}: the header {_shorten(header[0])} has one field; its fields seem to be "
                f"separated by {other!r}, expected {delimiter!r}",
                hint="expected commas in .csv and tabs in .tsv",
            )


def _read_parquet(path: Path, shown: str) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{shown}: is not a readable Parquet file ({reason})") from error
    names = table.column_names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{shown}: has the column {twice[0]!r} twice", hint="rename one of them")
    columns = {name: table.column(name).to_pylist() for name in names}
    return Table(columns=columns, origin=shown)


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


_READERS: dict[str, Callable[[Path, str], Table]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}
