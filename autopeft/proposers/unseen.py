"""Draws from a space that never repeat what has been tried."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import numpy as np

from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.space import SearchSpace

#: Sobol points looked at in one proposal before falling back to plain sampling.
MAX_SOBOL = 256
#: Plain samples, then neighbours of what is known, before a space counts as exhausted.
MAX_SAMPLES = 512


def next_sobol(
    space: SearchSpace,
    k: int,
    known: Collection[str],
    *,
    seed: int,
    allows: Callable[[Configuration], bool] = lambda configuration: True,
) -> Configuration | None:
    """Return the first point of the space's Sobol sequence, from the k-th on, that is not known.

    Several points of the sequence can stand for one configuration where dimensions are discrete
    or conditional; those are skipped. Where a long stretch of the sequence is known, plain samples
    and then neighbours of known configurations are tried, so that the last members of a small
    space are found too. None where the space is exhausted as far as that can tell.

    Args:
        space: Where to look.
        k: Where in the sequence to begin.
        known: Keys of the configurations that have a trial.
        seed: Scrambles the sequence.
        allows: Tells whether a configuration keeps the job's constraints.
    """

    def is_new(candidate: Configuration) -> bool:
        return candidate.key not in known and allows(candidate)

    for start, size in ((0, 8), (8, 56), (64, MAX_SOBOL - 64)):
        for candidate in space.sobol(size, seed=seed, skip=k + start):
            if is_new(candidate):
                return candidate
    generator = np.random.default_rng([seed, k])
    return next((c for c in _others(space, generator) if is_new(c)), None)


def _others(space: SearchSpace, generator: np.random.Generator) -> Iterator[Configuration]:
    samples = space.sample(MAX_SAMPLES, generator)
    yield from samples
    for sample in samples[:64]:
        for _ in range(4):
            yield space.mutate(sample, generator)
