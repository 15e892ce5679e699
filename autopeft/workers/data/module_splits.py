"""Splits of what is read from a library: whole modules, so that no near-duplicates part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TypeVar

from autopeft.workers.dataset import SPLIT_NAMES, SplitName

#: Share of each split in the rows of a library.
SHARES: dict[SplitName, float] = {"train": 0.7, "validation": 0.15, "test": 0.15}

Row = TypeVar("Row")


def assign_modules(
    rows: Sequence[Row], module_of: Callable[[Row], str]
) -> Iterator[tuple[SplitName, Row]]:
    """Yield each row with its split: whole modules go where most rows are still missing.

    Args:
        rows: Rows of one library, those of a module one after the other.
        module_of: Tells the module of a row.
    """
    counts = dict.fromkeys(SPLIT_NAMES, 0)
    for _, members in groupby(rows, key=module_of):
        module = list(members)
        split = max(SPLIT_NAMES, key=lambda name: SHARES[name] * len(rows) - counts[name])
        counts[split] += len(module)
        yield from ((split, row) for row in module)
