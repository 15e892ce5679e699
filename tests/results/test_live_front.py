from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from autopeft.records import TrialState, TrialStatus
from autopeft.results.front import Constraint, pareto_front
from autopeft.results.live_front import LiveFront
from tests.results.jobs import FULL_STEPS, SCALE, make_measurement, make_trial

#: Few distinct values, so that ties and duplicates are common, and the edge set among them.
SCORES = st.sampled_from([0.25, 0.5, 0.75, math.nan, math.inf, -math.inf])
MEBIBYTE = 2**20


def completed(number: int, score: float, parameters: int, memory: int) -> TrialState:
    trial = make_trial(number, parameters=parameters, memory=memory)
    curve = (make_measurement(number, FULL_STEPS, score),)
    return TrialState(trial=trial, status=TrialStatus.COMPLETED, curve=curve)


@st.composite
def jobs(draw: st.DrawFn) -> list[TrialState]:
    states = []
    for number in range(draw(st.integers(0, 10))):
        # A byte more is no cost more.
        memory = draw(st.sampled_from([100 * MEBIBYTE, 100 * MEBIBYTE + 1, 200 * MEBIBYTE]))
        parameters = draw(st.sampled_from([1000, 2000, 3000]))
        states.append(completed(number, draw(SCORES), parameters, memory))
    return draw(st.permutations(states))


@given(states=jobs())
def test_the_front_is_that_of_all_trials_at_every_moment(states: list[TrialState]) -> None:
    front = LiveFront(SCALE)
    on_it: set[int] = set()
    for place, state in enumerate(states, start=1):
        dropped = {each.trial.number for each in front.add(state)}
        assert dropped <= on_it
        on_it -= dropped
        on_it |= {state.trial.number} if state in front else set()
        so_far = sorted(states[:place], key=lambda each: each.trial.number)
        assert front.members == pareto_front(so_far, SCALE)
        assert on_it == {member.trial.number for member in front.members}
        assert len(front) == len(on_it)


def test_a_trial_counts_once_and_only_when_it_is_completed() -> None:
    front = LiveFront(SCALE)
    state = completed(0, 0.5, 1000, MEBIBYTE)

    assert front.add(replace(state, status=TrialStatus.STOPPED)) == ()
    assert front.members == []
    front.add(state)
    assert front.add(state) == ()
    assert front.members == [state]


def test_what_breaks_a_constraint_is_not_on_the_front() -> None:
    limit = Constraint(name="num_trainable_parameters", maximum=1500)
    front = LiveFront(replace(SCALE, constraints=(limit,)))
    front.add(completed(0, 0.9, 2000, MEBIBYTE))
    front.add(completed(1, 0.5, 1000, MEBIBYTE))

    assert [member.trial.number for member in front.members] == [1]
