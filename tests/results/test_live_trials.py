from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft.records import TrialState, TrialStatus
from autopeft.results.live_trials import LiveTrials
from tests.results.jobs import make_trial


def proposed(number: int) -> TrialState:
    return TrialState(trial=make_trial(number), status=TrialStatus.PROPOSED)


def trials_of(numbers: list[int]) -> tuple[dict[int, TrialState], LiveTrials]:
    states: dict[int, TrialState] = {}
    trials = LiveTrials(states)
    for number in numbers:
        trials.put(proposed(number))
    return states, trials


@given(
    numbers=st.lists(st.integers(0, 6), max_size=6),
    left_out=st.integers(0, 7),
    cut=st.slices(6),
)
def test_both_views_are_the_sequences_they_stand_for(
    numbers: list[int], left_out: int, cut: slice
) -> None:
    states, trials = trials_of(numbers)
    plain = [states[number] for number in sorted(states)]
    others = [state for state in plain if state.trial.number != left_out]
    for view, expected in ((trials, plain), (trials.without(left_out), others)):
        assert list(view) == expected
        assert len(view) == len(expected)
        assert view[cut] == expected[cut]
        for index in range(-len(expected), len(expected)):
            assert view[index] == expected[index]
        with pytest.raises(IndexError):
            view[len(expected)]
        with pytest.raises(IndexError):
            view[-len(expected) - 1]


def test_views_show_what_happens_later() -> None:
    states, trials = trials_of([0, 2])
    others = trials.without(2)
    trials.put(proposed(1))
    states[0] = changed = TrialState(trial=states[0].trial, status=TrialStatus.STOPPED)

    assert [state.trial.number for state in trials] == [0, 1, 2]
    assert list(others) == [changed, states[1]]
