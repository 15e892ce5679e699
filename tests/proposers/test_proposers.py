"""The contract of every proposer, and what is particular to each."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest

from autopeft.errors import AutopeftError
from autopeft.proposers.base import PROPOSERS, Proposer
from autopeft.proposers.lora_sweep import LoraSweepProposer
from autopeft.proposers.mobo import NUM_SOBOL
from autopeft.records import TrialStatus
from autopeft.search_spaces.space import SearchSpace, load_space
from tests.proposers.contract import ProposerContract, build, play, state_of
from tests.proposers.synthetic_job import Landscape, bert_shape, default_landscape, run_job

#: So few members that every proposer must find them all.
SMALL_SPACE = {
    "methods": {
        "lora": {
            "rank": [2, 4, 8, 16],
            "alpha_ratio": [1.0, 2.0],
            "sites": [["q", "v"]],
            "placement": ["all"],
            "dora": False,
            "rslora": [False, True],
            "learning_rate": 0.003,
        }
    }
}


class TestRandom(ProposerContract):
    name = "random"
    origins = frozenset({"random"})


class TestLoraSweep(ProposerContract):
    name = "lora-sweep"
    origins = frozenset({"lora-sweep"})

    def searched_space(self, proposer: Proposer) -> SearchSpace:
        assert isinstance(proposer, LoraSweepProposer)
        return proposer.sweep

    def test_ranks_and_learning_rates_are_spread(self, landscape: Landscape) -> None:
        proposer = build(self.name, landscape)
        configurations = [p.configuration for p in play(proposer, landscape, 16)]
        assert len({c.modules[0]["rank"] for c in configurations}) >= 3
        rates = sorted(c.learning_rate for c in configurations)
        assert rates[-1] / rates[0] > 5


class TestMobo(ProposerContract):
    name = "mobo"
    origins = frozenset({"portfolio", "portfolio:lora-sweep", "sobol", "mobo", "mobo:score"})

    def test_portfolio_then_sobol_then_model(self, landscape: Landscape) -> None:
        proposer = build(self.name, landscape)
        portfolio = landscape.space.portfolio()
        first = len(portfolio) + NUM_SOBOL
        proposals = play(proposer, landscape, first + 1)
        assert proposals[: len(portfolio)] == portfolio
        assert {p.origin for p in proposals[len(portfolio) : first]} == {"sobol"}
        assert proposals[first].origin == "mobo"

    def test_every_other_proposal_is_for_the_score_whatever_it_costs(
        self, landscape: Landscape
    ) -> None:
        proposer = build(self.name, landscape)
        by_model = [p for p in play(proposer, landscape, 22) if p.origin.startswith("mobo")]
        sizes: dict[str, list[int]] = {"mobo": [], "mobo:score": []}
        for proposal, origin in zip(by_model, cycle(sizes), strict=False):
            assert proposal.origin == origin
            num_parameters = landscape.space.num_adapter_parameters(proposal.configuration)
            sizes[origin].append(num_parameters)
        assert np.median(sizes["mobo:score"]) > 2 * np.median(sizes["mobo"])

    def test_failures_are_avoided(self, landscape: Landscape) -> None:
        """Where every prefix trial diverged and the others are mediocre, prefix is left alone."""
        proposer = build(self.name, landscape)
        members = landscape.space.portfolio() + build("random", landscape).propose(30)
        for number, proposal in enumerate(members):
            is_prefix = "prefix" in proposal.configuration.methods
            state = state_of(landscape, number, proposal, TrialStatus.COMPLETED, (96,))
            if is_prefix:
                state = replace(state, status=TrialStatus.DIVERGED, curve=())
            proposer.observe(state)
        methods = {p.configuration.methods[0] for p in proposer.propose(4)}
        assert "prefix" not in methods


def test_unknown_proposer_offers_the_nearest() -> None:
    with pytest.raises(AutopeftError, match="did you mean 'mobo'"):
        PROPOSERS.get("mob")


@pytest.mark.parametrize("seed", [0, 1])
def test_mobo_beats_random_at_equal_steps(seed: int) -> None:
    landscape = default_landscape(seed)
    jobs = [
        run_job(landscape, proposer=name, stopper="none", trials=16, seed=seed)
        for name in ("mobo", "random", "lora-sweep")
    ]
    ours, random, sweep = (job.trace[-1][1] for job in jobs)
    assert jobs[0].steps == jobs[1].steps == jobs[2].steps
    assert ours > 1.1 * random
    assert ours > sweep


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_mobo_beats_everything_in_a_whole_job(seed: int) -> None:
    landscape = default_landscape(seed)
    full = run_job(landscape, proposer="mobo", stopper="none", seed=seed)
    random = run_job(landscape, proposer="random", stopper="none", seed=seed)
    sweep = run_job(landscape, proposer="lora-sweep", stopper="none", seed=seed)
    halving = run_job(landscape, proposer="mobo", stopper="halving", seed=seed)
    assert full.trace[-1][1] > 1.2 * random.trace[-1][1]
    assert full.trace[-1][1] > sweep.trace[-1][1]
    # With the same steps, stopping leaves room for more.
    assert halving.trace[-1][1] > random.hypervolume_at(halving.steps)


def test_pending_trials_push_proposals_apart() -> None:
    landscape = default_landscape()
    proposer = build("mobo", landscape)
    play(proposer, landscape, 14)
    batch = proposer.propose(4)
    X = landscape.space.encode([p.configuration for p in batch])
    distances = [abs(X[i] - X[j]).sum() for i in range(4) for j in range(i)]
    assert min(distances) > 1e-3
    assert len({p.configuration for p in batch}) == 4


@pytest.mark.parametrize("name", ["random", "mobo"])
def test_a_small_space_is_searched_to_its_last_member(name: str) -> None:
    landscape = Landscape(space=load_space(SMALL_SPACE, bert_shape()))
    proposer = build(name, landscape)
    members = landscape.space.sample(100, np.random.default_rng(0))
    for number in range(len(members)):
        (proposal,) = proposer.propose(1)
        proposer.observe(state_of(landscape, number, proposal, TrialStatus.COMPLETED, (96,)))
    assert proposer.known_keys == {member.key for member in members}
    assert proposer.propose(2) == []
