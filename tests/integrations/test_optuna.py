"""Optuna's studies under our sampler, on a landscape with no model behind it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from autopeft.errors import AutopeftError
from autopeft.records import TrialStatus
from tests.integrations.guests import make_study
from tests.proposers.synthetic_job import MAX_STEPS, Landscape, default_landscape

optuna = pytest.importorskip("optuna", reason="the extra optuna is not installed")

from autopeft.integrations.optuna import PeftSampler  # noqa: E402 -- needs optuna

LANDSCAPE = default_landscape()
ONE = Landscape(space=LANDSCAPE.space, cost_names=("num_trainable_parameters",))
BOTH = ["maximize", "minimize"]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Keep Optuna from telling of every trial."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
    optuna.logging.set_verbosity(level)


def objective_of(sampler: PeftSampler) -> Any:
    """Return an objective of score and parameters that prunes where the sampler says so."""

    def objective(trial: Any) -> tuple[float, float]:
        configuration = sampler.suggest(trial)
        for step in range(12, MAX_STEPS + 1, 12):
            score = ONE.score(configuration, step)
            if sampler.report(trial, step, score):
                raise optuna.TrialPruned
        return score, float(ONE.costs([configuration])[0].num_trainable_parameters)

    return objective


def test_twelve_trials_with_two_directions_and_pruning() -> None:
    sampler = PeftSampler(make_study(ONE, proposer="mobo"))
    study = optuna.create_study(directions=BOTH, sampler=sampler)
    study.optimize(objective_of(sampler), n_trials=12)
    states = [trial.state.name for trial in study.trials]
    ours = [state.status for state in sampler.study.trials]
    assert len(ours) == 12
    assert states.count("PRUNED") == ours.count(TrialStatus.STOPPED) > 0
    assert states.count("COMPLETE") == ours.count(TrialStatus.COMPLETED) > 0
    trained = [sampler.view.configuration(trial.params) for trial in study.trials]
    assert trained == [state.trial.configuration for state in sampler.study.trials]
    assert len(set(trained)) == 12
    best = {trial.number for trial in study.best_trials}
    assert {state.trial.number for state in sampler.study.front()} == best


def test_another_sampler_goes_on_where_this_one_ended() -> None:
    storage = optuna.storages.InMemoryStorage()
    first = PeftSampler(make_study(ONE, proposer="mobo"))
    study = optuna.create_study(
        directions=BOTH, sampler=first, storage=storage, study_name="search"
    )
    study.optimize(objective_of(first), n_trials=7)
    proposed = study.ask()
    expected = first.suggest(proposed)
    study.tell(proposed, state=optuna.trial.TrialState.FAIL)

    second = PeftSampler(make_study(ONE, proposer="mobo"))
    again = optuna.load_study(study_name="search", storage=storage, sampler=second)
    following = second.suggest(again.ask())
    assert second.study.trial(7).trial.configuration == expected
    first_seven = [(s.trial.configuration, s.status, s.score) for s in second.study.trials[:8]]
    assert first_seven == [
        (s.trial.configuration, s.status, s.score) for s in first.study.trials[:8]
    ]
    # What is under way there is known here, too.
    assert first.suggest(study.ask()) != following


def test_trials_under_way_are_never_proposed_twice() -> None:
    sampler = PeftSampler(make_study(ONE))
    study = optuna.create_study(directions=BOTH, sampler=sampler)
    asked = {sampler.suggest(study.ask()) for _ in range(10)}
    assert len(asked) == 10


@pytest.mark.parametrize(
    ("tell", "status"),
    [
        ({"values": [0.7, 1e5]}, TrialStatus.COMPLETED),
        ({"values": [float("inf"), 1e5]}, TrialStatus.DIVERGED),
        ({"state": "FAIL"}, TrialStatus.FAILED),
        ({"state": "PRUNED"}, TrialStatus.STOPPED),
    ],
)
def test_what_is_told_is_learnt(tell: dict[str, Any], status: TrialStatus) -> None:
    sampler = PeftSampler(make_study(ONE))
    study = optuna.create_study(directions=BOTH, sampler=sampler)
    trial = study.ask()
    sampler.suggest(trial)
    if "state" in tell:
        tell = {"state": getattr(optuna.trial.TrialState, tell["state"])}
    study.tell(trial, **tell)
    assert sampler.study.trial(0).status is status


def test_one_objective_and_smaller_is_better() -> None:
    sampler = PeftSampler(make_study(ONE, mode="min"))
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: -ONE.score(sampler.suggest(trial), MAX_STEPS), n_trials=5)
    best = max(sampler.study.trials, key=lambda state: state.score)
    assert sampler.study.value(best) == study.best_value
    assert best.trial.number == study.best_trial.number


def test_measured_costs_are_read_from_the_values() -> None:
    sampler = PeftSampler(
        make_study(ONE), values=("train_seconds", "accuracy", "num_trainable_parameters")
    )
    study = optuna.create_study(directions=["minimize", "maximize", "minimize"], sampler=sampler)
    trial = study.ask()
    sampler.suggest(trial)
    study.tell(trial, [12.5, 0.8, 1.0])
    state = sampler.study.trial(0)
    assert (state.score, state.costs.train_seconds) == (0.8, 12.5)
    # Known costs are the study's own, whatever the objective says.
    assert state.costs.num_trainable_parameters == state.trial.costs.num_trainable_parameters > 1


def test_enqueued_trial_is_trained_as_it_is_and_learnt_from() -> None:
    sampler = PeftSampler(make_study(ONE))
    study = optuna.create_study(directions=BOTH, sampler=sampler)
    member = ONE.space.portfolio()[3].configuration
    study.enqueue_trial(sampler.view.parameters(member))
    study.optimize(objective_of(sampler), n_trials=2)
    assert sampler.study.trial(0).trial.configuration == member
    assert sampler.study.trial(0).trial.origin == "optuna"
    assert sampler.study.trial(0).curve


def test_parameters_of_others_are_drawn_besides() -> None:
    sampler = PeftSampler(make_study(ONE))
    study = optuna.create_study(directions=BOTH, sampler=sampler)
    trial = study.ask()
    dropout = trial.suggest_float("dropout", 0.0, 0.5)
    assert 0.0 <= dropout <= 0.5
    assert sampler.suggest(trial) == sampler.study.trial(0).trial.configuration


def test_peft_s_own_config_is_at_hand() -> None:
    sampler = PeftSampler(make_study(ONE))
    study = optuna.create_study(directions=BOTH, sampler=sampler)
    asked = sampler.asked(study.ask())
    assert asked.peft_config.peft_type in ("LORA", "IA3", "BEFT", "PREFIX_TUNING")


def test_report_before_the_configuration_is_refused() -> None:
    sampler = PeftSampler(make_study(ONE))
    study = optuna.create_study(directions=BOTH, sampler=sampler)
    study.enqueue_trial({"learning_rate": 0.5})
    with pytest.raises(AutopeftError, match="has no configuration yet"):
        sampler.report(study.ask(), 12, 0.5)


@pytest.mark.parametrize(
    ("directions", "values", "told"),
    [
        (["minimize", "minimize"], None, "is to minimize accuracy"),
        (["maximize", "maximize"], None, "is to maximize num_trainable_parameters"),
        (["maximize"] * 3, None, "has 3 directions"),
        (["maximize"], ("num_trainable_parameters",), "has 1 directions"),
    ],
)
def test_directions_that_do_not_fit_are_refused(
    directions: list[str], values: tuple[str, ...] | None, told: str
) -> None:
    sampler = PeftSampler(make_study(ONE), values=values)
    study = optuna.create_study(directions=directions, sampler=sampler)
    with pytest.raises(AutopeftError, match=told):
        sampler.suggest(study.ask())


def test_configuration_that_is_left_over_is_the_next() -> None:
    """The proposal of a trial that a process did not live to ask for goes to nobody else."""
    first = make_study(ONE)
    expected = first.ask()
    sampler = PeftSampler(make_study(ONE))
    study = optuna.create_study(directions=BOTH, sampler=sampler)
    study.ask()
    assert expected is not None
    assert sampler.suggest(study.ask()) == expected.configuration


def test_study_that_has_begun_is_refused() -> None:
    begun = make_study(ONE)
    begun.ask()
    with pytest.raises(AutopeftError, match="has begun already"):
        PeftSampler(begun)
