"""A metric for worked answers that end in ``#### 42``: does the last number agree?"""

from __future__ import annotations

import re

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def score(predictions: list[str], references: list[str]) -> float:
    """Return the part of the answers whose number after ``####`` is the reference's."""
    wanted = [final_number(reference) for reference in references]
    given = [final_number(prediction) for prediction in predictions]
    hits = [w is not None and w == g for w, g in zip(wanted, given, strict=True)]
    return sum(hits) / len(hits)


def final_number(text: str) -> float | None:
    """Return the last number after ``####``, or the last of all; None where there is none."""
    numbers = NUMBER.findall(text.rpartition("####")[2])
    return float(numbers[-1].replace(",", "")) if numbers else None
