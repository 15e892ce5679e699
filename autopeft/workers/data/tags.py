"""Tags of words: their numbers, and the entities they mark.

Two ways of marking are known. Where every tag is ``O``, ``B-x`` or ``I-x``, an entity begins at
``B-x``, and at an ``I-x`` that does not continue an x; that is how ``conlleval`` (the scorer of
the CoNLL-2000 and 2003 shared tasks) treats a stray ``I-x``. ``E-x`` and ``L-x`` are read as
``I-x``, ``S-x`` and ``U-x`` as ``B-x``. Any other tags, names or plain numbers, mark an entity
by a maximal run of one tag; the tag numbered 0 is outside (``O`` where there is one, else the
first in order).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

OUTSIDE = "O"
#: In arrays of tags: no word here, or no tag called.
NO_TAG = -100

_PREFIXED = re.compile(r"[BIESLU]-.+", re.DOTALL)
_AS_BIO = {"E": "I", "L": "I", "S": "B", "U": "B"}


def is_prefixed(tags: Iterable[Any]) -> bool:
    """Return whether all tags are texts that mark beginnings: ``O``, ``B-x``, ``I-x`` or kin."""
    return all(
        isinstance(tag, str) and (tag == OUTSIDE or _PREFIXED.fullmatch(tag) is not None)
        for tag in tags
    )


def as_bio(tag: str) -> str:
    """Return a prefixed tag in terms of ``B-`` and ``I-``."""
    return tag if tag == OUTSIDE else _AS_BIO.get(tag[0], tag[0]) + tag[1:]


def ordered_tags(tags: Iterable[Any]) -> tuple[Any, ...]:
    """Return different tags in the order of their numbers.

    Prefixed ones are ``O``, then ``B-x``, ``I-x`` for each type x in sorted order, both always;
    others are sorted, ``O`` first.
    """
    known = set(tags)
    if is_prefixed(known):
        types = sorted({tag[2:] for tag in known if tag != OUTSIDE})
        return (OUTSIDE, *(f"{prefix}-{kind}" for kind in types for prefix in "BI"))
    return tuple(sorted(known, key=lambda tag: (tag != OUTSIDE, tag)))


def spans(tags: Sequence[int] | NDArray[Any], *, is_bio: bool) -> set[tuple[int, int, int]]:
    """Return the entities that tags mark, as (first word, word after the last, type).

    Args:
        tags: ``w`` tag numbers in the order of :func:`ordered_tags`; negative ones are outside.
        is_bio: Whether tags are ``B-x`` and ``I-x``; else runs of one tag are entities.
    """
    found: set[tuple[int, int, int]] = set()
    start, kind = 0, NO_TAG
    for place, tag in enumerate([*(int(tag) for tag in tags), 0]):
        if tag <= 0:
            here, begins = NO_TAG, False
        elif is_bio:
            here, begins = (tag - 1) // 2, tag % 2 == 1
        else:
            here, begins = tag, False
        if kind != NO_TAG and (here != kind or begins):
            found.add((start, place, kind))
        if here != kind or begins:
            start = place
        kind = here
    return found


def padded(rows: Sequence[Sequence[int]]) -> NDArray[np.int16]:
    """Return lists of tag numbers as one array, ``n x w``, filled with :data:`NO_TAG`."""
    array = np.full((len(rows), max(map(len, rows), default=0)), NO_TAG, dtype=np.int16)
    for i, row in enumerate(rows):
        array[i, : len(row)] = row
    return array
