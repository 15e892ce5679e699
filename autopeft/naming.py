"""Words for messages that teach: the nearest valid name, numbers with their nouns."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """Return the valid name closest to ``name``, or None where none is close.

    Case and the difference between ``-`` and ``_`` are ignored. Where no name is alike, the only
    one that begins with ``name`` is taken.
    """
    by_folded = {candidate.casefold().replace("-", "_"): candidate for candidate in valid}
    folded = name.casefold().replace("-", "_")
    matches = difflib.get_close_matches(folded, list(by_folded), n=1, cutoff=0.6)
    if not matches and folded:
        longer = [candidate for candidate in by_folded if candidate.startswith(folded)]
        matches = longer if len(longer) == 1 else []
    return by_folded[matches[0]] if matches else None


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return ``"; did you mean 'rank'?"`` or, where nothing is close, the valid names."""
    names = sorted(valid)
    close = nearest(name, names)
    if close is not None:
        return f"; did you mean {close!r}?"
    return f"; valid: {', '.join(names)}" if names else ""


def or_nearest(name: str, valid: Iterable[str]) -> str:
    """Return ``"; did you mean 'rank'?"``, or nothing where nothing is close.

    For messages whose hint lists the valid names.
    """
    close = nearest(name, valid)
    return f"; did you mean {close!r}?" if close is not None else ""


def counted(number: float, noun: str) -> str:
    """Write a number with its noun, ``1 trial``, ``2 trials`` or ``0.5 minutes``."""
    text = str(number) if isinstance(number, int) else f"{number:g}"
    return f"{text} {noun}" if number == 1 else f"{text} {noun}s"
