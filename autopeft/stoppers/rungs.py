"""Where trials are measured on their way to the last step."""

from __future__ import annotations

from collections.abc import Sequence

#: Rungs below this many steps say nothing.
MIN_RUNG_STEPS = 4


def rungs_at(max_steps: int, parts: Sequence[float]) -> tuple[int, ...]:
    """Return the growing steps at some parts of ``max_steps``, and ``max_steps`` as the last."""
    steps = {round(max_steps * part) for part in parts}
    return (*sorted(step for step in steps if MIN_RUNG_STEPS <= step < max_steps), max_steps)


def next_of(rungs: Sequence[int], step: int) -> int:
    """Return the first of growing rungs beyond ``step``; the last where there is none."""
    return next((rung for rung in rungs if rung > step), rungs[-1])
