"""The trials of a job that goes on: a sequence that changes as the job does, and costs no copy."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import overload

from autopeft.records import TrialState


class LiveTrials(Sequence[TrialState]):
    """States in the order of proposal, the newest of each trial.

    Whoever keeps one sees what happens later; ``list(trials)`` keeps what there is now.

    Args:
        states: States by number, empty; their owner changes those of known trials there, new
            ones come through :meth:`put`.
    """

    def __init__(self, states: dict[int, TrialState]) -> None:
        self._states = states
        self._numbers: list[int] = []

    def put(self, state: TrialState) -> None:
        """Take in the state of a trial, known or new."""
        number = state.trial.number
        if number not in self._states:
            insort(self._numbers, number)
        self._states[number] = state

    def without(self, number: int) -> Sequence[TrialState]:
        """Return all of them but one, as live as they are."""
        return _Others(self._states, self._numbers, number)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> TrialState: ...
    @overload
    def __getitem__(self, index: slice) -> list[TrialState]: ...
    def __getitem__(self, index: int | slice) -> TrialState | list[TrialState]:
        if isinstance(index, slice):
            return [self._states[number] for number in self._numbers[index]]
        return self._states[self._numbers[index]]

    def __iter__(self) -> Iterator[TrialState]:
        return map(self._states.__getitem__, self._numbers)


class _Others(Sequence[TrialState]):
    """All trials but one."""

    def __init__(self, states: dict[int, TrialState], numbers: list[int], left_out: int) -> None:
        self._states = states
        self._numbers = numbers
        self._left_out = left_out

    @property
    def _parts(self) -> tuple[range, range]:
        """Places of those before and of those behind the one that is left out."""
        place = bisect_left(self._numbers, self._left_out)
        num_left_out = int(self._left_out in self._states)
        return range(place), range(place + num_left_out, len(self._numbers))

    def __len__(self) -> int:
        return len(self._numbers) - (self._left_out in self._states)

    @overload
    def __getitem__(self, index: int) -> TrialState: ...
    @overload
    def __getitem__(self, index: slice) -> list[TrialState]: ...
    def __getitem__(self, index: int | slice) -> TrialState | list[TrialState]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        before, behind = self._parts
        place = range(len(self))[index]
        found = place if place < len(before) else behind[place - len(before)]
        return self._states[self._numbers[found]]

    def __iter__(self) -> Iterator[TrialState]:
        before, behind = self._parts
        numbers = chain(self._numbers[: before.stop], self._numbers[behind.start :])
        return map(self._states.__getitem__, numbers)
