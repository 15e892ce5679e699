"""Ask and tell, on a landscape with no model behind it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autopeft.errors import AutopeftError, InvalidSpaceError
from autopeft.integrations.study import PeftStudy
from autopeft.records import TrialStatus
from autopeft.results.front import non_dominated
from autopeft.results.report import front_frame, trials_frame
from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.search_spaces.space import load_space
from autopeft.stoppers.base import Action
from tests.integrations.guests import make_study, run, train
from tests.proposers.synthetic_job import MAX_STEPS, Landscape, bert_shape, default_landscape

LANDSCAPE = default_landscape()
#: The rungs of the default stopper.
FIRST, SECOND = MAX_STEPS // 4, MAX_STEPS // 2


def test_trials_are_numbered_and_never_the_same() -> None:
    study = make_study(LANDSCAPE)
    asked = [study.ask() for _ in range(12)]
    configurations = {each.configuration for each in asked if each is not None}
    assert len(configurations) == 12
    assert [state.trial.number for state in study.trials] == list(range(12))
    assert {state.status for state in study.trials} == {TrialStatus.RUNNING}


def test_reports_between_rungs_are_passed_over() -> None:
    study = make_study(LANDSCAPE)
    asked = study.ask()
    assert asked is not None
    decision = study.report(asked.number, FIRST - 1, 0.5)
    assert decision.action is Action.CONTINUE
    assert decision.reason == f"judged next at step {FIRST}"
    assert study.trial(0).curve == ()


@pytest.mark.parametrize(
    ("step", "rung"), [(FIRST, FIRST), (FIRST + 5, FIRST), (SECOND + 1, SECOND)]
)
def test_report_beyond_a_rung_counts_there(step: int, rung: int) -> None:
    study = make_study(LANDSCAPE)
    study.ask()
    study.report(0, step, 0.7, seconds=3.0)
    assert [(m.step, m.score, m.seconds) for m in study.trial(0).curve] == [(rung, 0.7, 3.0)]


def test_report_that_is_known_changes_nothing() -> None:
    study = make_study(LANDSCAPE)
    study.ask()
    study.report(0, FIRST, 0.7)
    before = study.num_entries
    assert not study.measure(0, FIRST, 0.1)
    assert study.report(0, FIRST + 1, 0.1).action is Action.CONTINUE
    assert study.num_entries == before


def test_last_step_completes() -> None:
    study = make_study(LANDSCAPE)
    study.ask()
    decision = study.report(0, MAX_STEPS, 0.8, seconds=9.0)
    assert decision.action is Action.STOP
    assert decision.reason == "trained to the end"
    assert study.trial(0).status is TrialStatus.COMPLETED
    assert study.front() == [study.trial(0)]
    assert study.report(0, MAX_STEPS + 1, 0.1).action is Action.STOP
    assert study.value(study.trial(0)) == 0.8


def test_seconds_are_those_of_each_segment() -> None:
    study = make_study(LANDSCAPE)
    study.ask()
    study.measure(0, FIRST, 0.6, seconds=10.0)
    study.measure(0, SECOND, 0.7, seconds=25.0)
    assert [m.seconds for m in study.trial(0).curve] == [10.0, 15.0]
    assert study.trial(0).costs.train_seconds == 25.0


def test_seconds_must_be_told_where_they_count() -> None:
    timed = Landscape(
        space=LANDSCAPE.space,
        _scale=replace(
            LANDSCAPE.scale(),
            cost_names=("train_seconds",),
            cost_ideal=(1.0,),
            cost_reference=(86_400.0,),
        ),
    )
    study = make_study(timed)
    study.ask()
    with pytest.raises(AutopeftError, match="reported without train_seconds"):
        study.report(0, FIRST, 0.5)
    assert study.trial(0).curve == ()
    assert study.measure(0, FIRST, 0.5, seconds=2.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_value_that_is_not_finite_is_divergence(value: float) -> None:
    study = make_study(LANDSCAPE)
    study.ask()
    decision = study.report(0, 3, value)
    assert decision.action is Action.STOP
    assert study.trial(0).status is TrialStatus.DIVERGED
    assert study.front() == []


def test_ends_of_all_kinds() -> None:
    study = make_study(LANDSCAPE)
    for _ in range(5):
        study.ask()
    study.failed(0, "the disk is full")
    study.infeasible(1, "out of memory", least_memory_bytes=5_000_000_000)
    study.diverged(2, "NaN")
    study.stopped(3, "enough")
    study.complete(4, 0.75)
    statuses = [state.status.value for state in study.trials]
    assert statuses == ["failed", "infeasible", "diverged", "stopped", "completed"]
    assert study.trial(0).reason == "the disk is full"
    assert study.trial(1).least_memory_bytes == 5_000_000_000
    before = study.num_entries
    study.failed(4, "too late")
    study.complete(3, 0.9)
    assert study.num_entries == before
    assert study.ask() is not None


def test_failed_trial_is_tried_again() -> None:
    study = make_study(LANDSCAPE)
    study.ask()
    study.measure(0, FIRST, 0.6)
    study.failed(0, "the node is gone")
    study.retried(0)
    assert study.trial(0).status is TrialStatus.RUNNING
    assert study.report(0, SECOND, 0.7).action is Action.CONTINUE
    study.complete(0, 0.8)
    study.retried(0)
    assert study.trial(0).status is TrialStatus.COMPLETED


def test_smaller_is_better() -> None:
    study = make_study(LANDSCAPE, mode="min")
    for loss in (0.9, 0.4):
        asked = study.ask()
        assert asked is not None
        study.complete(asked.number, loss)
    assert [state.score for state in study.trials] == [-0.9, -0.4]
    assert [study.value(state) for state in study.trials] == [0.9, 0.4]
    assert study.front()[0].trial.number == 1


def test_front_is_that_of_the_completed() -> None:
    study = make_study(LANDSCAPE, stopper="none")
    run(study, LANDSCAPE, 10)
    done = [s for s in study.trials if s.status is TrialStatus.COMPLETED]
    costs = LANDSCAPE.scale().costs([s.costs for s in done])
    mask = non_dominated(np.array([s.score for s in done]), costs)
    expected = {s.trial.number for s, keep in zip(done, mask, strict=True) if keep}
    assert {s.trial.number for s in study.front()} == expected
    assert len(front_frame(study.log)) == len(expected)
    assert len(trials_frame(study.log)) == 10


def test_what_waits_is_stopped_where_it_cannot_be_resumed() -> None:
    study = make_study(LANDSCAPE)
    for value in (0.9, 0.9, 0.9, 0.9, 0.9, 0.9):
        asked = study.ask()
        assert asked is not None
        study.report(asked.number, FIRST, value)
    waiting = study.ask()
    assert waiting is not None
    assert study.report(waiting.number, FIRST, 0.1).action is Action.PAUSE
    assert study.trial(waiting.number).status is TrialStatus.PAUSED
    ended = study.ask()
    assert ended is not None
    assert study.report(ended.number, FIRST, 0.1, can_pause=False).action is Action.STOP
    assert study.trial(ended.number).status is TrialStatus.STOPPED


def test_paused_trial_is_promoted_among_those_that_can_go_on() -> None:
    study = make_study(LANDSCAPE)
    assert study.promote() is None
    for value in (0.9, 0.9, 0.9, 0.9, 0.9, 0.6):
        asked = study.ask()
        assert asked is not None
        decision = study.report(asked.number, FIRST, value)
    assert decision.action is Action.PAUSE
    assert study.promote() is None
    # What was ahead of it breaks down, and worse ones arrive.
    for number in range(5):
        study.diverged(number, "NaN")
    for _ in range(6):
        asked = study.ask()
        assert asked is not None
        study.report(asked.number, FIRST, 0.3)
    before = study.num_entries
    assert study.promote(among=()) is None
    assert study.num_entries == before
    assert study.promote() == 5
    assert study.trial(5).status is TrialStatus.RUNNING


def test_another_one_s_configuration_is_adopted() -> None:
    study = make_study(LANDSCAPE, proposer="mobo")
    member = LANDSCAPE.space.portfolio()[2].configuration
    asked = study.adopt(member, origin="hand")
    assert (asked.number, asked.origin, asked.configuration) == (0, "hand", member)
    following = [study.ask() for _ in range(6)]
    assert member not in [each.configuration for each in following if each is not None]


def test_stranger_is_not_adopted() -> None:
    stranger = Configuration(
        modules=(Module.of("lora", [0], rank=5, sites=("q",)),), learning_rate=1e-3
    )
    with pytest.raises(InvalidSpaceError, match="is not in the space"):
        make_study(LANDSCAPE).adopt(stranger)


def test_unknown_trial_is_told() -> None:
    with pytest.raises(AutopeftError, match="the study has no trial 7"):
        make_study(LANDSCAPE).report(7, 1, 0.5)


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(AutopeftError, match="mode is 'maximum'"):
        make_study(LANDSCAPE, mode="maximum")


@pytest.mark.parametrize("proposer", ["random", "mobo"])
def test_saved_study_goes_on_as_it_would_have(proposer: str, tmp_path: Path) -> None:
    study = make_study(LANDSCAPE, proposer=proposer)
    run(study, LANDSCAPE, 8)
    study.ask()
    study.save(tmp_path / "study.json")
    other = make_study(LANDSCAPE, proposer=proposer)
    other.restore(json.loads((tmp_path / "study.json").read_text()))
    assert other.state() == study.state()
    assert other.trials == study.trials
    for each in (study, other):
        asked = each.ask()
        assert asked is not None
        train(each, LANDSCAPE, asked)
    assert other.trials == study.trials
    assert {path.name for path in tmp_path.iterdir()} == {"study.json"}


def test_values_that_json_lacks_survive() -> None:
    study = make_study(LANDSCAPE)
    study.ask()
    study.measure(0, FIRST, 0.5, metrics={"other": math.nan})
    other = make_study(LANDSCAPE)
    other.restore(json.loads(json.dumps(study.state(), allow_nan=False)))
    assert math.isnan(other.trial(0).curve[0].metrics["other"])


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"seed": 1}, "seed"), ({"stopper": "none"}, "stopper"), ({"max_steps": 48}, "max_steps")],
)
def test_state_of_another_study_is_refused(changes: dict[str, int | str], what: str) -> None:
    state = make_study(LANDSCAPE).state()
    with pytest.raises(AutopeftError, match=f"the saved study has another {what} than this one"):
        make_study(LANDSCAPE, **changes).restore(state)


def test_state_of_another_model_is_refused() -> None:
    other = Landscape(space=load_space("default", bert_shape(num_layers=4)))
    with pytest.raises(AutopeftError, match="another space and model than this one"):
        make_study(other).restore(make_study(LANDSCAPE).state())


def test_state_of_another_version_is_refused() -> None:
    state = make_study(LANDSCAPE).state()
    with pytest.raises(AutopeftError, match="schema version 99"):
        make_study(LANDSCAPE).restore({**state, "schema_version": 99})


def test_study_of_parts_cannot_be_read_alone(tmp_path: Path) -> None:
    make_study(LANDSCAPE).save(tmp_path / "study.json")
    with pytest.raises(AutopeftError, match="made of parts"):
        PeftStudy.load(tmp_path / "study.json")


@pytest.mark.parametrize(
    ("text", "told"), [("[]", "holds list"), ("{", "cannot be read"), (None, "cannot be read")]
)
def test_file_that_is_no_study_is_refused(text: str | None, told: str, tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(AutopeftError, match=told):
        PeftStudy.load(path)


def test_search_that_is_done_says_why() -> None:
    settings = {
        "sites": "all", "rank": [4, 8], "alpha_ratio": 2.0, "dora": False, "rslora": False,
        "placement": "all", "learning_rate": 0.001,
    }  # fmt: skip
    small = Landscape(space=load_space({"methods": {"lora": settings}}, bert_shape()))
    study = make_study(small)
    run(study, small, 2)
    assert study.ask() is None
    assert study.doubt == ""
