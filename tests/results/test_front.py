from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from autopeft.records import Costs, TrialState, TrialStatus
from autopeft.results.front import ObjectiveScale, dominates, non_dominated, pareto_front
from tests.results.jobs import SCALE, example_job, make_measurement, make_trial

Points = NDArray[np.float64]
#: Few distinct values, so that ties and duplicates are common, and the edge set among them.
SCORES = st.sampled_from([0.0, 0.25, 0.5, 1.0, -1.0, math.nan, math.inf, -math.inf])


@st.composite
def point_sets(draw: st.DrawFn) -> tuple[Points, Points]:
    n, m = draw(st.integers(0, 8)), draw(st.integers(0, 3))
    scores = draw(hnp.arrays(np.float64, n, elements=SCORES))
    costs = draw(hnp.arrays(np.float64, (n, m), elements=st.integers(0, 3).map(float)))
    return scores, costs


@given(points=point_sets())
def test_the_front_is_what_its_definition_says(points: tuple[Points, Points]) -> None:
    scores, costs = points
    mask = non_dominated(scores, costs)
    finite = np.isfinite(scores)

    def beaten(i: int) -> bool:
        return any(
            finite[j] and dominates(scores[j], costs[j], scores[i], costs[i])
            for j in range(len(scores))
        )

    def has_earlier_twin(i: int) -> bool:
        return any(scores[j] == scores[i] and np.array_equal(costs[j], costs[i]) for j in range(i))

    expected = [
        bool(finite[i]) and not beaten(i) and not has_earlier_twin(i) for i in range(len(scores))
    ]
    assert mask.tolist() == expected


@given(points=point_sets())
def test_front_members_do_not_dominate_each_other(points: tuple[Points, Points]) -> None:
    scores, costs = points
    members = np.flatnonzero(non_dominated(scores, costs))
    pairs = [(i, j) for i in members for j in members]
    assert not any(dominates(scores[i], costs[i], scores[j], costs[j]) for i, j in pairs)


@given(points=point_sets())
def test_the_front_of_the_front_is_itself(points: tuple[Points, Points]) -> None:
    scores, costs = points
    mask = non_dominated(scores, costs)
    assert non_dominated(scores[mask], costs[mask]).all()


@given(points=point_sets(), seed=st.integers(0, 99))
def test_order_changes_which_twin_stays_but_no_value(
    points: tuple[Points, Points], seed: int
) -> None:
    scores, costs = points
    order = np.random.default_rng(seed).permutation(len(scores))

    def values(scores: Points, costs: Points) -> set[tuple[float, ...]]:
        mask = non_dominated(scores, costs)
        return {(s, *c) for s, c in zip(scores[mask], costs[mask], strict=True)}

    assert values(scores, costs) == values(scores[order], costs[order])


@given(points=point_sets())
def test_a_dominated_point_changes_nothing(points: tuple[Points, Points]) -> None:
    scores, costs = points
    if not np.isfinite(scores).any():
        return
    worst = np.append(scores, scores[np.isfinite(scores)].min() - 1.0)
    dear = np.vstack([costs, costs.max(axis=0, keepdims=True) + 1.0])
    assert non_dominated(worst, dear).tolist() == [*non_dominated(scores, costs).tolist(), False]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([], []),
        ([0.5], [True]),
        ([math.nan], [False]),
        ([math.inf, 0.5], [False, True]),
        ([0.5, 0.5, 0.5], [True, False, False]),
        ([0.4, 0.5, 0.3], [False, True, False]),
    ],
)
def test_edge_set_without_costs(scores: list[float], expected: list[bool]) -> None:
    mask = non_dominated(np.array(scores), np.empty((len(scores), 0)))
    assert mask.tolist() == expected


def state(
    number: int, score: float, parameters: int, memory: int, status: TrialStatus
) -> TrialState:
    trial = make_trial(number, parameters=parameters, memory=memory)
    return TrialState(trial=trial, status=status, curve=(make_measurement(number, 96, score),))


def test_only_completed_trials_are_on_the_front() -> None:
    states = [state(i, 0.9, 1000, 1000, status) for i, status in enumerate(TrialStatus)]
    front = pareto_front(states, SCALE)
    assert [member.status for member in front] == [TrialStatus.COMPLETED]


def test_a_completed_trial_without_a_score_is_not_on_the_front() -> None:
    assert pareto_front([state(0, math.nan, 1, 1, TrialStatus.COMPLETED)], SCALE) == []


def test_the_front_is_ordered_by_score() -> None:
    log = example_job().log
    front = pareto_front(log.trials, SCALE)
    assert [member.trial.number for member in front] == [0, 1, 2]


def test_memory_within_one_percent_is_no_advantage() -> None:
    done = TrialStatus.COMPLETED
    # Both round to the same multiple of log(1.01).
    memory = round(1.01**2000)
    close = [state(0, 0.9, 1000, memory + memory // 500, done), state(1, 0.8, 1000, memory, done)]
    apart = [state(0, 0.9, 1000, memory + memory // 50, done), state(1, 0.8, 1000, memory, done)]
    assert [member.trial.number for member in pareto_front(close, SCALE)] == [0]
    assert [member.trial.number for member in pareto_front(apart, SCALE)] == [0, 1]


def test_one_parameter_less_is_an_advantage() -> None:
    done = TrialStatus.COMPLETED
    states = [state(0, 0.9, 10_000_000, 1, done), state(1, 0.8, 9_999_999, 1, done)]
    assert len(pareto_front(states, SCALE)) == 2


def test_scale_comes_back_from_json() -> None:
    assert ObjectiveScale.from_json(SCALE.to_json()) == SCALE


def test_costs_are_logs_at_the_resolution() -> None:
    costs = Costs(
        num_trainable_parameters=0, num_adapter_parameters=0, train_memory_bytes=1_000_000
    )
    table = SCALE.costs([costs])
    assert table.shape == (1, 2)
    assert table[0, 0] == 0.0
    assert table[0, 1] == pytest.approx(math.log(1_000_000), abs=math.log1p(0.01) / 2)
    assert SCALE.costs([]).shape == (0, 2)
