from __future__ import annotations

from dataclasses import replace

import pytest

from autopeft.errors import AutopeftError
from autopeft.records import TrialState, TrialStatus
from autopeft.results.selection import pick
from tests.results.jobs import SCALE, example_job, make_measurement, make_trial

ONE_COST = replace(
    SCALE,
    cost_names=("num_trainable_parameters",),
    cost_ideal=(1.0,),
    cost_reference=(1e9,),
)
NO_COST = replace(SCALE, cost_names=(), cost_ideal=(), cost_reference=())


def completed(points: list[tuple[float, int]], memory: int = 2**28) -> list[TrialState]:
    """Return completed trials from (score, parameters)."""
    return [
        TrialState(
            trial=make_trial(number, parameters=parameters, memory=memory),
            status=TrialStatus.COMPLETED,
            curve=(make_measurement(number, 96, score),),
        )
        for number, (score, parameters) in enumerate(points)
    ]


@pytest.mark.parametrize(
    ("which", "number"),
    [("best", 0), ("smallest", 2), ("knee", 1), (3, 3), ("3", 3), (" 3 ", 3)],
)
def test_picks_from_a_job(which: str | int, number: int) -> None:
    assert pick(example_job().log.trials, SCALE, which).trial.number == number


@pytest.mark.parametrize(
    ("points", "number"),
    [
        ([(0.9, 1000)], 0),
        # The line between two points has nothing above it: the better score wins.
        ([(0.5, 10), (0.9, 1000)], 1),
        # log10: (1, .50) (2, .80) (3, .90) over the line from (1, .5) to (3, .9) at .7
        ([(0.9, 1000), (0.8, 100), (0.5, 10)], 1),
        # Below the line everywhere: a front without a knee.
        ([(0.9, 1000), (0.55, 100), (0.5, 10)], 0),
        # Two bulges: the larger one.
        ([(1.0, 10_000), (0.95, 1000), (0.9, 100), (0.0, 10)], 2),
    ],
)
def test_the_knee_with_one_cost(points: list[tuple[float, int]], number: int) -> None:
    assert pick(completed(points), ONE_COST, "knee").trial.number == number


def test_two_costs_have_one_say() -> None:
    """Parameters and memory that grow together pick as parameters alone do."""
    points = [(0.9, 1000), (0.72, 100), (0.5, 10)]
    alone = pick(completed(points), ONE_COST, "knee")
    both = [
        replace(state, trial=make_trial(i, parameters=p, memory=p * 2**20))
        for i, (state, (_, p)) in enumerate(zip(completed(points), points, strict=True))
    ]
    assert pick(both, SCALE, "knee").trial.number == alone.trial.number == 1


@pytest.mark.parametrize("which", ["knee", "best", "smallest"])
def test_without_costs_there_is_one_answer(which: str) -> None:
    states = completed([(0.5, 10), (0.9, 1000), (0.8, 100)])
    assert pick(states, NO_COST, which).trial.number == 1


def test_units_and_offsets_of_the_score_do_not_matter() -> None:
    points = [(0.9, 1000), (0.8, 100), (0.5, 10)]
    moved = [(100 * score - 7, parameters) for score, parameters in points]
    picked = [pick(completed(p), ONE_COST, "knee").trial.number for p in (points, moved)]
    assert picked == [1, 1]


def test_a_trial_that_did_not_complete_is_refused_with_its_reason() -> None:
    with pytest.raises(AutopeftError, match=r"trial 4 is stopped \(worst of 4") as caught:
        pick(example_job().log.trials, SCALE, 4)

    assert caught.value.hint == "completed trials: 0, 1, 2, 3"


@pytest.mark.parametrize("which", [99, "99", -1, "-1"])
def test_an_unknown_number_is_refused(which: str | int) -> None:
    with pytest.raises(AutopeftError, match=r"there is no trial -?\d+ in this job") as caught:
        pick(example_job().log.trials, SCALE, which)

    assert caught.value.hint == "completed trials: 0, 1, 2, 3"


def test_an_unknown_word_is_refused_with_the_nearest() -> None:
    with pytest.raises(AutopeftError, match="cannot pick 'kneee'; did you mean 'knee'"):
        pick(example_job().log.trials, SCALE, "kneee")


@pytest.mark.parametrize("which", ["", "1.5", "²", "x"])
def test_nonsense_is_refused(which: str) -> None:
    with pytest.raises(AutopeftError, match="cannot pick"):
        pick(example_job().log.trials, SCALE, which)


def test_an_empty_job_has_nothing_to_pick() -> None:
    with pytest.raises(AutopeftError, match="no trial has completed"):
        pick([], SCALE, "knee")
    with pytest.raises(AutopeftError, match="there is no trial 0") as caught:
        pick([], SCALE, 0)

    assert caught.value.hint == "no trial has completed yet"
