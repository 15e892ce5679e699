"""Which file a person may have meant who named one that is not there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from autopeft.naming import nearest

#: Folders looked into beside the one that was named; more are no near miss.
MAX_FOLDERS = 100


def near_file(path: Path, *, base: Path, suffixes: Sequence[str]) -> str:
    """Return ``; did you mean ...`` for a file that may be meant by one that is missing.

    That is a file in the same folder whose name without its ending is close, or one of the same
    name in a folder nearby. Files of other endings are never meant.

    Args:
        path: The missing file.
        base: Folder that a relative suggestion starts from.
        suffixes: Endings of the files that may be meant.
    """
    beside = {file.stem: file for file in _files(path.parent, suffixes)}
    close = nearest(path.stem, beside)
    if close is not None:
        return _meant(beside[close], base)
    for folder in _folders_near(path):
        if any(file.name == path.name for file in _files(folder, suffixes)):
            return _meant(folder / path.name, base)
    return ""


def _meant(file: Path, base: Path) -> str:
    shown = file.relative_to(base) if file.is_relative_to(base) else file
    return f"; did you mean {str(shown)!r}?"


def _files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    try:
        return sorted(
            file
            for file in folder.iterdir()
            if file.name.casefold().endswith(tuple(suffixes)) and file.is_file()
        )
    except OSError:
        return []


def _folders_near(path: Path) -> Iterator[Path]:
    """Yield the nearest folder above that exists, and the folders in it."""
    above = next((folder for folder in path.parents if folder.is_dir()), None)
    if above is None:
        return
    yield above
    try:
        inside = sorted(folder for folder in above.iterdir() if folder.is_dir())
    except OSError:
        return
    yield from inside[:MAX_FOLDERS]
