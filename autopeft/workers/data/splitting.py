"""Cut splits from training rows, and draw a limited number of rows; both seeded.

Rows with equal text (letters and digits only, case ignored; both texts of a pair together)
stay on one side of a cut. A draw and a cut depend on the rows and the seed alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from autopeft.workers.dataset import Rows

#: Part of the training rows that becomes a missing validation or test split ...
CUT_FRACTION = 0.15
#: ... but never more than this: 5,000 rows tell an accuracy to half a per cent.
CUT_MAX_ROWS = 5000

_NOT_ALPHANUMERIC = re.compile(r"[\W_]+")


def text_keys(rows: Rows) -> list[str]:
    """Return the :func:`text_key` of every row."""
    if rows.text_pair is None:
        return [text_key(text) for text in rows.text]
    return [text_key(*texts) for texts in zip(rows.text, rows.text_pair, strict=True)]


def text_key(text: str, text_pair: str | None = None) -> str:
    """Return what two rows share where their texts count as equal."""
    keys = [_NOT_ALPHANUMERIC.sub("", part.casefold()) or part for part in (text, text_pair or "")]
    return "\n".join(keys)


def cut(
    rows: Rows,
    num_rows: int,
    generator: np.random.Generator,
    *,
    stratify: bool,
    keys: Sequence[str] | None = None,
) -> list[int]:
    """Return about ``num_rows`` indices to take away, in growing order.

    Args:
        rows: The rows to cut from.
        num_rows: How many to take away; fewer are where equal texts or rare classes forbid it.
        generator: Draws the rows.
        stratify: Whether labels are classes, each to be cut in proportion. A class never
            loses its last group of equal texts.
        keys: What rows share where they must stay together; their texts by default.
    """
    groups = _groups(text_keys(rows) if keys is None else keys)
    strata = _strata(rows.label, groups) if stratify else {None: groups}
    sizes = [sum(len(group) for group in members) for members in strata.values()]
    quotas = allocate(sizes, num_rows)
    chosen: list[list[int]] = []
    for members, quota in zip(strata.values(), quotas, strict=True):
        shuffled = [members[i] for i in generator.permutation(len(members))]
        for group in shuffled[1:]:
            if len(group) <= quota:
                chosen.append(group)
                quota -= len(group)
    if stratify:
        chosen = _give_back(rows.label, chosen)
    return sorted(i for group in chosen for i in group)


def draw(
    labels: Sequence[Any],
    num_rows: int,
    generator: np.random.Generator,
    *,
    stratify: bool,
    minimum: int = 0,
) -> list[int]:
    """Return ``num_rows`` indices without replacement, in growing order.

    Args:
        labels: Label of each row.
        num_rows: How many to draw, at most ``len(labels)``.
        generator: Draws the rows.
        stratify: Whether labels are classes, each to be drawn in proportion.
        minimum: Rows that each class gets before the rest is shared out.
    """
    if not stratify:
        return sorted(generator.permutation(len(labels))[:num_rows].tolist())
    members: dict[Any, list[int]] = {}
    for i, label in enumerate(labels):
        members.setdefault(label, []).append(i)
    quotas = allocate([len(rows) for rows in members.values()], num_rows, minimum=minimum)
    drawn: list[int] = []
    for rows, quota in zip(members.values(), quotas, strict=True):
        drawn += [rows[i] for i in generator.permutation(len(rows))[:quota]]
    return sorted(drawn)


def allocate(sizes: Sequence[int], total: int, *, minimum: int = 0) -> list[int]:
    """Share ``total`` out in proportion to ``sizes`` by largest remainders.

    No share exceeds its size, and none falls below ``min(minimum, size)`` where ``total``
    suffices for that. Shares sum to ``min(total, sum(sizes))``.
    """
    floors = [min(minimum, size) for size in sizes]
    if sum(floors) > total:
        floors = [0] * len(sizes)
    left = min(total, sum(sizes)) - sum(floors)
    room = [size - floor for size, floor in zip(sizes, floors, strict=True)]
    if sum(room) == 0:
        return floors
    exact = [left * space / sum(room) for space in room]
    shares = [floor + int(part) for floor, part in zip(floors, exact, strict=True)]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (int(exact[i]) - exact[i], i))
    for i in by_remainder[: min(total, sum(sizes)) - sum(shares)]:
        shares[i] += 1
    return shares


def _groups(keys: Sequence[str]) -> list[list[int]]:
    groups: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    return list(groups.values())


def _strata(labels: Sequence[Any], groups: list[list[int]]) -> dict[Hashable, list[list[int]]]:
    """Return the groups by class; a group of several classes counts for its rarest."""
    counts = Counter(labels)
    strata: dict[Hashable, list[list[int]]] = {label: [] for label in counts}
    for group in groups:
        strata[min((labels[i] for i in group), key=lambda label: counts[label])].append(group)
    return {label: members for label, members in strata.items() if members}


def _give_back(labels: Sequence[Any], chosen: list[list[int]]) -> list[list[int]]:
    """Return ``chosen`` without the groups whose loss would leave training without a class."""
    taken = {i for group in chosen for i in group}
    left = {label for i, label in enumerate(labels) if i not in taken}
    kept: list[list[int]] = []
    for group in chosen:
        classes = {labels[i] for i in group}
        if classes <= left:
            kept.append(group)
        else:
            left |= classes
    return kept
