"""Where rows come from: local files, a hub data set, or what is built in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from autopeft.errors import DataError
from autopeft.naming import did_you_mean
from autopeft.workers.data.files import read_file
from autopeft.workers.data.table import Table
from autopeft.workers.dataset import SPLIT_NAMES, SplitName
from autopeft.workers.settings import DataSettings

BUILTIN_DATA = ("builtin:docstrings", "builtin:signatures")


def read_tables(
    settings: DataSettings, base: Path, seed: int
) -> tuple[dict[SplitName, Table], dict[str, Any]]:
    """Return the splits that are given, and where they come from.

    Args:
        settings: What the job says about its data.
        base: Folder that relative paths start from.
        seed: Seed of splits that a source makes itself.

    Raises:
        DataError: the source cannot be read, or there is none of that name.
    """
    if settings.name is None:
        return _read_files(settings, base)
    if settings.name.startswith("builtin:"):
        return _read_builtin(settings.name, seed)
    from autopeft.workers.data.hub import read_hub

    return read_hub(settings)


def _read_builtin(name: str, seed: int) -> tuple[dict[SplitName, Table], dict[str, Any]]:
    if name == "builtin:docstrings":
        from autopeft.workers.data.docstrings import read_docstrings

        return read_docstrings(seed)
    if name == "builtin:signatures":
        from autopeft.workers.data.signatures import read_signatures

        return read_signatures(seed)
    raise DataError(
        f"there is no data set {name!r}{did_you_mean(name, BUILTIN_DATA)}",
        hint=f"data: {BUILTIN_DATA[0]}",
    )


def _read_files(
    settings: DataSettings, base: Path
) -> tuple[dict[SplitName, Table], dict[str, Any]]:
    if settings.train is None:
        raise DataError(
            "data names neither a training file nor a data set",
            hint="data: {train: FILE.jsonl}, or data: builtin:docstrings",
        )
    named = {split: getattr(settings, split) for split in SPLIT_NAMES}
    given = {split: name for split, name in named.items() if name is not None}
    if len(set(given.values())) < len(given):
        raise DataError(
            f"data names one file for two splits: {', '.join(given.values())}",
            hint="leave validation or test out: they are then cut from train",
        )
    tables = {split: read_file(base / name, name) for split, name in given.items()}
    names = _names_beside(base / settings.train)
    if names is not None:
        train = tables["train"]
        for split, table in tables.items():
            tables[split] = replace(table, label_names=dict.fromkeys(train.columns, names))
    return tables, {"source": "files", "files": given}


def _names_beside(train: Path) -> tuple[str, ...] | None:
    """Return ``label_names`` of a ``meta.json`` beside the training file, where there are any."""
    try:
        meta = json.loads((train.parent / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    names = meta.get("label_names") if isinstance(meta, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names) if len(set(names)) == len(names) >= 2 else None
