"""From what a job says about its data to three splits of rows."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from autopeft.errors import DataError
from autopeft.workers.data.columns import ChosenColumns, check_columns, is_for_language_model
from autopeft.workers.data.labels import Labels, is_missing, read_labels
from autopeft.workers.data.media import MediaSettings
from autopeft.workers.data.sources import read_tables
from autopeft.workers.data.splitting import CUT_FRACTION, CUT_MAX_ROWS, cut, draw
from autopeft.workers.data.table import DataWarning, Table
from autopeft.workers.data.task_columns import task_of_columns
from autopeft.workers.dataset import SPLIT_NAMES, DataSplits, Rows, SplitName
from autopeft.workers.settings import DataSettings
from autopeft.workers.task_names import CAUSAL_LM, CLASSIFICATION, REGRESSION
from autopeft.workers.tasks.base import TASKS, Task

#: Fewer rows cannot be cut, trained on or scored on.
MIN_ROWS_TO_CUT = 10
MIN_ROWS: Mapping[SplitName, int] = {"train": 2, "validation": 2, "test": 1}


def load_splits(settings: DataSettings, *, base: Path, seed: int, task: str) -> DataSplits:
    """Read the three splits of a job.

    Splits that are not given are cut from the training rows; then each is limited. Both are
    stratified by class under classification, and depend on the rows and ``seed`` alone. Rows
    with an empty text are left out with a :class:`DataWarning`.

    Args:
        settings: What the job says about its data.
        base: Folder that relative paths start from.
        seed: Seed of the job, at least 0.
        task: Name of a task, or ``auto``: labels are then strings or integers where the
            column holds classes, and floats where it holds amounts.

    Raises:
        DataError: one clear finding with its place.
    """
    tables, provenance = read_tables(settings, base, seed)
    for split, table in tables.items():
        tables[split] = _with_settings(table, settings, base)
    reader = _reader(tables["train"], settings, task)
    columns = reader.choose_columns(tables["train"], settings.columns)
    tables = _without_unlabelled_test(tables, columns, settings)
    for table in tables.values():
        check_columns(table, columns)
    dropped = {}
    for split, table in tables.items():
        tables[split], dropped[split] = reader.clean(table, columns)
    kind, labels = _labels(tables, columns, reader, task)
    splits: dict[SplitName, Rows] = {
        split: reader.make_rows(table, columns, labels[split]) for split, table in tables.items()
    }
    stratify = kind == "classes"
    names = _label_names(tables["train"], columns.label, splits) if stratify else None
    if kind == "own":
        names = (tables["train"].label_names or {}).get(columns.label or "")
    if settings.label_names is not None and names is None:
        raise DataError(
            f"data.label_names names {len(settings.label_names)} labels, but the labels are no "
            f"numbers from 0 to {len(settings.label_names) - 1}",
            hint="leave data.label_names out, or name every number",
        )
    cuts = _cut_missing(splits, seed, reader, stratify=stratify)
    if stratify and names is None:
        _check_known_labels(splits, tables)
    sizes = {split: len(splits[split]) for split in SPLIT_NAMES}
    _limit(splits, settings, seed, stratify=stratify)
    _check_sizes(splits, kind)
    return DataSplits(
        splits=splits,
        text_columns=columns.text,
        label_column=columns.label,
        label_names=names,
        fingerprint=fingerprint(splits),
        provenance={
            **provenance,
            "seed": seed,
            "num_rows_before_limits": sizes,
            "num_rows_with_empty_text_left_out": {k: n for k, n in dropped.items() if n},
            "cut_from_train": cuts,
            "num_texts_also_in_train": _overlaps(splits, reader),
        },
    )


def fingerprint(splits: Mapping[SplitName, Rows]) -> str:
    """Return a SHA-256 over every row of every split, in order."""
    digest = hashlib.sha256()
    for split in SPLIT_NAMES:
        rows = splits[split]
        digest.update(f"{split} {len(rows)}\n".encode())
        for row in zip(*rows.columns.values(), rows.label, strict=True):
            digest.update(json.dumps(row, default=_digest).encode() + b"\n")
    return digest.hexdigest()


def _digest(value: Any) -> str:
    """Stand for bytes and arrays, which JSON does not know."""
    content = value if isinstance(value, bytes) else np.ascontiguousarray(value).tobytes()
    return hashlib.sha256(content).hexdigest()


def _with_settings(table: Table, settings: DataSettings, base: Path) -> Table:
    """Return a table that knows what the job says about its labels, pictures and recordings."""
    names = table.label_names
    if settings.label_names is not None:
        names = dict.fromkeys(table.columns, tuple(settings.label_names))
    media = MediaSettings(
        folder=base,
        image_shape=None if settings.image_shape is None else tuple(settings.image_shape),
        sample_rate=settings.sample_rate,
    )
    return replace(table, label_names=names, media=media)


def _reader(train: Table, settings: DataSettings, task: str) -> Task:
    """Return the task that reads the rows: under ``auto``, by the columns there are."""
    if task != "auto":
        return TASKS.get(task)()
    found = task_of_columns(train, settings.columns)
    if found is not None:
        return TASKS.get(found)()
    return TASKS.get(CAUSAL_LM if is_for_language_model(train, settings.columns) else REGRESSION)()


def _labels(
    tables: Mapping[SplitName, Table], columns: ChosenColumns, reader: Task, task: str
) -> tuple[str, Labels]:
    """Return the kind of labels, found out where the task is ``auto``, and the labels."""
    kind: str = reader.label_kind
    if columns.label is None:
        return kind, {split: [None] * len(table) for split, table in tables.items()}
    if kind == "own":
        return kind, {split: list(t.columns[columns.label]) for split, t in tables.items()}
    wanted = CLASSIFICATION if kind == "classes" else REGRESSION
    is_open = task == "auto" and reader.name == REGRESSION
    found, labels = read_labels(tables, columns.label, "auto" if is_open else wanted)
    return ("classes" if found == CLASSIFICATION else "amounts"), labels


def _without_unlabelled_test(
    tables: dict[SplitName, Table], columns: ChosenColumns, settings: DataSettings
) -> dict[SplitName, Table]:
    """Leave out a hub's test split that has no labels, unless the user asked for it."""
    test = tables.get("test")
    if test is None or settings.test is not None or columns.label is None:
        return tables
    if not all(is_missing(value) for value in test.columns.get(columns.label, [])):
        return tables
    return {split: table for split, table in tables.items() if split != "test"}


def _label_names(
    train: Table, column: str | None, splits: Mapping[SplitName, Rows]
) -> tuple[str, ...] | None:
    names = (train.label_names or {}).get(column or "")
    if names is None:
        return None
    everything = {label for rows in splits.values() for label in rows.label}
    if any(isinstance(label, str) for label in everything):
        return None
    if not everything <= set(range(len(names))):
        warnings.warn(
            f"{train.origin}: labels run from {min(everything)} to {max(everything)}, but "
            f"{len(names)} label names are given for 0 to {len(names) - 1}; they are not used",
            DataWarning,
            stacklevel=3,
        )
        return None
    return names


def _cut_missing(
    splits: dict[SplitName, Rows], seed: int, reader: Task, *, stratify: bool
) -> list[SplitName]:
    """Cut the splits that are not there from train, in place; return their names."""
    missing = [split for split in SPLIT_NAMES if split not in splits]
    num_rows = len(splits["train"])
    if missing and num_rows < MIN_ROWS_TO_CUT:
        raise DataError(
            f"train has {num_rows} rows; expected at least {MIN_ROWS_TO_CUT} to cut "
            f"{' and '.join(missing)} from it",
            hint="give more rows, or files for every split",
        )
    target = min(CUT_MAX_ROWS, max(2, round(CUT_FRACTION * num_rows)))
    for split in missing:
        train = splits["train"]
        generator = _generator(seed, "cut", split)
        away = cut(train, target, generator, stratify=stratify, keys=reader.keys(train))
        if len(away) < MIN_ROWS[split]:
            raise DataError(
                f"train has {num_rows} rows, {'too few in each class or ' if stratify else ''}"
                f"too many {reader.what_is_equal(train)} to cut {split} from it; such rows stay "
                "together",
                hint=f"give a file for {split}, or more rows",
            )
        gone = set(away)
        splits[split] = train.take(away)
        splits["train"] = train.take([i for i in range(len(train)) if i not in gone])
    return missing


def _check_known_labels(
    splits: Mapping[SplitName, Rows], tables: Mapping[SplitName, Table]
) -> None:
    known = set(splits["train"].label)
    for split, table in tables.items():
        for row, label in enumerate(splits[split].label if split != "train" else []):
            if label not in known:
                shown = ", ".join(repr(x) for x in sorted(known)[:5])
                more = f" and {len(known) - 5} more" if len(known) > 5 else ""
                raise DataError(
                    f"{table.where(row)}: no training row has the label {label!r}; training has "
                    f"{shown}{more}",
                    hint="add training rows with it, or remove the row",
                )


def _limit(
    splits: dict[SplitName, Rows], settings: DataSettings, seed: int, *, stratify: bool
) -> None:
    for split in SPLIT_NAMES:
        limit = getattr(settings.limit, split)
        rows = splits[split]
        if limit is None or limit >= len(rows):
            continue
        num_classes = len(set(rows.label)) if stratify else 0
        if stratify and split == "train" and limit < num_classes:
            raise DataError(
                f"data.limit.train is {limit}; expected at least {num_classes}, one row for each "
                "class",
                hint=f"data: {{limit: {{train: {10 * num_classes}}}}}",
            )
        generator = _generator(seed, "limit", split)
        minimum = 1 if split == "train" else 0
        kept = draw(rows.label, limit, generator, stratify=stratify, minimum=minimum)
        splits[split] = rows.take(kept)


def _check_sizes(splits: Mapping[SplitName, Rows], kind: str) -> None:
    for split in SPLIT_NAMES:
        rows = splits[split]
        if len(rows) < MIN_ROWS[split]:
            raise DataError(
                f"split {split} has {len(rows)} rows; expected at least {MIN_ROWS[split]}",
                hint=f"give more rows, or raise data.limit.{split}",
            )
        is_scored = kind in ("classes", "amounts") and split != "test"
        if is_scored and len(set(rows.label)) == 1:
            raise DataError(
                f"every label in split {split} is {rows.label[0]!r}; expected at least two "
                "different ones, else nothing can be learnt or told apart",
                hint=f"give more rows, or raise data.limit.{split}",
            )


def _overlaps(splits: Mapping[SplitName, Rows], reader: Task) -> dict[str, int]:
    """Count the texts of validation and test that training has, too."""
    train = set(reader.keys(splits["train"]))
    others = [split for split in SPLIT_NAMES if split != "train"]
    return {split: sum(key in train for key in reader.keys(splits[split])) for split in others}


def _generator(seed: int, purpose: str, split: SplitName) -> np.random.Generator:
    words = hashlib.sha256(f"{purpose} {split}".encode()).digest()[:4]
    return np.random.default_rng([seed, int.from_bytes(words, "big")])
