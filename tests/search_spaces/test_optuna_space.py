"""A space in Optuna's words and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autopeft.search_spaces.domains import ValueDomain
from autopeft.search_spaces.optuna_space import OptunaView, suggest_configuration
from autopeft.search_spaces.space import load_space
from tests.proposers.synthetic_job import bert_shape

optuna = pytest.importorskip("optuna", reason="the extra optuna is not installed")

SPACES: dict[str, Any] = {
    "default": "default",
    "several": {"methods": {"lora": {}, "beft": {}, "prefix": {}}, "combine": "any"},
    "together": {"methods": {"lora": {}, "beft": {}}, "combine": "all"},
    "training": {
        "methods": {"lora": {"rank": 8}},
        "training": {"batch_size": [8, 16, 32], "optimizer": ["adamw", "sgd"]},
    },
}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
def test_members_come_back(space: Any) -> None:
    view = OptunaView(load_space(space, bert_shape()))
    members = view.space.sample(60, np.random.default_rng(0))
    members += [proposal.configuration for proposal in view.space.portfolio()]
    found = [view.parameters(member) for member in members]
    assert [view.configuration(parameters) for parameters in found] == members
    for parameters in found:
        for name, value in parameters.items():
            distribution = view.distributions[name]
            assert distribution._contains(distribution.to_internal_repr(value))


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
def test_every_sampler_is_asked_for_what_matters_alone(space: Any) -> None:
    view = OptunaView(load_space(space, bert_shape()))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        configuration = view.suggest(trial)
        assert configuration in view.space
        assert view.configuration(trial.params) == configuration
        assert set(trial.distributions) <= set(view.distributions)
        study.tell(trial, 0.0)


def test_one_call_is_enough() -> None:
    space = load_space("default", bert_shape())
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    assert suggest_configuration(study.ask(), space) in space


def test_missing_parameter_is_no_configuration() -> None:
    view = OptunaView(load_space("default", bert_shape()))
    parameters = view.parameters(view.space.portfolio()[0].configuration)
    del parameters["learning_rate"]
    assert view.configuration(parameters) is None
    assert view.configuration({}) is None


def test_order_is_kept() -> None:
    view = OptunaView(load_space("default", bert_shape()))
    rank = view.distributions["lora:rank"]
    assert isinstance(rank, optuna.distributions.IntDistribution)
    member = next(
        p.configuration for p in view.space.portfolio() if "lora" in p.configuration.methods
    )
    ranks = view.space.parts["lora"].domains["rank"]
    assert isinstance(ranks, ValueDomain)
    assert ranks.values[view.parameters(member)["lora:rank"]] == member.modules[0]["rank"]
