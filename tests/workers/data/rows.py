"""Small data files and splits for the tests of this folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from autopeft.workers.dataset import DataSplits, Rows, SplitName


def write_jsonl(path: Path, rows: Iterable[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def labelled(num_rows: int, labels: Sequence[Any] = (0, 1)) -> list[dict[str, Any]]:
    """Return rows with different texts; labels take turns."""
    return [{"text": f"example {i}", "label": labels[i % len(labels)]} for i in range(num_rows)]


def make_splits(
    train: Sequence[Any],
    validation: Sequence[Any],
    test: Sequence[Any] | None = None,
    label_names: tuple[str, ...] | None = None,
) -> DataSplits:
    """Return splits with these labels."""
    labels: dict[SplitName, Sequence[Any]] = {
        "train": train,
        "validation": validation,
        "test": validation if test is None else test,
    }
    return DataSplits(
        splits={
            split: Rows.of_texts([f"{split} {i}" for i in range(len(values))], values)
            for split, values in labels.items()
        },
        text_columns=("text",),
        label_column="label",
        label_names=label_names,
        fingerprint="",
        provenance={},
    )
