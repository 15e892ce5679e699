"""The contract of every proposer, and what is particular to each."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest

from autopeft.errors import AutopeftError
from autopeft.proposers.base import PROPOSERS, Proposer
from autopeft.proposers.evolution import POPULATION
from autopeft.proposers.lora_sweep import LoraSweepProposer
from autopeft.proposers.mobo import NUM_SOBOL
from autopeft.proposers.optuna_samplers import OptunaNsga2Proposer
from autopeft.proposers.outcomes import crowding_distances, non_domination_ranks
from autopeft.proposers.saas import SaasProposer, gaussian_copula
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


class TestEvolution(ProposerContract):
    name = "evolution"
    origins = frozenset({"evolution", "evolution:random"})

    def test_mutants_of_what_is_good_follow_the_first_population(
        self, landscape: Landscape
    ) -> None:
        job = run_job(landscape, proposer="evolution", stopper="none", trials=60, seed=1)
        origins = [state.trial.origin for state in job.states]
        assert origins == ["evolution:random"] * POPULATION + ["evolution"] * (60 - POPULATION)
        scores = [state.score for state in job.states]
        assert np.median(scores[-20:]) > np.median(scores[:POPULATION])


class TestLocal(ProposerContract):
    name = "local"
    origins = frozenset({"local", "local:random", "portfolio:lora-sweep"})

    def test_begins_with_plain_lora_and_stays_near_the_front(self, landscape: Landscape) -> None:
        proposals = play(build(self.name, landscape), landscape, 8)
        assert proposals[0].origin == "portfolio:lora-sweep"
        assert {p.origin for p in proposals[1:]} == {"local"}


class TestOptunaTpe(ProposerContract):
    name = "optuna-tpe"
    origins = frozenset({"optuna-tpe"})

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def optuna(cls) -> None:
        pytest.importorskip("optuna", reason="the extra optuna is not installed")


class TestOptunaNsga2(TestOptunaTpe):
    name = "optuna-nsga2"
    origins = frozenset({"optuna-nsga2"})

    def test_generations_are_those_that_optuna_would_count(self, landscape: Landscape) -> None:
        """Without them every suggestion would be a random one: no trial would have parents."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        proposer = build(self.name, landscape)
        assert isinstance(proposer, OptunaNsga2Proposer)
        study = optuna.create_study(
            sampler=proposer.sampler(0), directions=["maximize", "minimize"]
        )
        study.optimize(lambda trial: (trial.suggest_float("x", 0, 1), 1.0), n_trials=45)
        key = next(iter(proposer.attributes(0)))
        counted = [trial.system_attrs[key] for trial in study.trials]
        assert counted == [proposer.attributes(place)[key] for place in range(45)]


@pytest.mark.slow
class TestOptunaGp(TestOptunaTpe):
    name = "optuna-gp"
    origins = frozenset({"optuna-gp"})


class TestBohb(ProposerContract):
    name = "bohb"
    origins = frozenset({"bohb"})

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def hpbandster(cls) -> None:
        pytest.importorskip(
            "hpbandster.optimizers.config_generators.bohb",
            reason="the extra bohb is not installed: it builds a C extension",
        )

    @pytest.mark.slow
    def test_its_densities_are_asked_once_there_are_enough_trials(
        self, landscape: Landscape, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It falls back to random draws without a word where anything goes wrong."""
        from hpbandster.optimizers.config_generators import bohb

        picked = []
        plain = bohb.BOHB.get_config

        def get_config(self: object, budget: float) -> tuple[object, dict[str, bool]]:
            sample, info = plain(self, budget)
            picked.append(info["model_based_pick"])
            return sample, info

        monkeypatch.setattr(bohb.BOHB, "get_config", get_config)
        enough = 2 * landscape.space.num_dimensions + 6
        run_job(landscape, proposer=self.name, stopper="none", trials=enough + 24, seed=0)
        assert not any(picked[:20])
        assert 0.4 < np.mean(picked[-20:]) < 0.95

    def test_numpys_generator_is_left_as_it_was(self, landscape: Landscape) -> None:
        proposer = build(self.name, landscape)
        np.random.seed(5)
        expected = np.random.random()
        np.random.seed(5)
        play(proposer, landscape, 3)
        assert np.random.random() == expected


@pytest.mark.slow
class TestAx(ProposerContract):
    name = "ax"
    origins = frozenset({"ax"})

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def ax(cls) -> None:
        pytest.importorskip("ax.api.client", reason="the extra ax is not installed")


class TestAutopeft(ProposerContract):
    name = "autopeft"
    origins = frozenset({"autopeft:random"})

    def test_is_the_published_recipe(self) -> None:
        recipe = PROPOSERS.get(self.name)
        assert issubclass(recipe, SaasProposer)
        assert (recipe.num_random, recipe.batch) == (100, 4)


class TestAutopeftFair(ProposerContract):
    name = "autopeft-fair"
    origins = frozenset({"autopeft-fair:random"})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["autopeft", "autopeft-fair"])
def test_batches_of_the_recipe_are_chosen_by_its_model(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "autopeft":
        pytest.importorskip("numpyro", reason="the extra saas is not installed")
    recipe = PROPOSERS.get(name)
    assert issubclass(recipe, SaasProposer)
    monkeypatch.setattr(recipe, "num_random", 10)
    landscape = default_landscape()
    proposer = build(name, landscape)
    proposals = play(proposer, landscape, 10 + 2 * recipe.batch)
    assert {p.origin for p in proposals[10:]} == {name}
    assert len({p.configuration.key for p in proposals}) == len(proposals)
    rebuilt = build(name, landscape)
    for state in proposer.states.values():
        rebuilt.observe(state)
    assert rebuilt.propose(1) == proposer.propose(1)


def test_the_copula_keeps_order_and_ties() -> None:
    values = np.array([3.0, 1.0, 1.0, 100.0, 2.0])
    found = gaussian_copula(values)
    assert np.argsort(found, kind="stable").tolist() == [1, 2, 4, 0, 3]
    assert found[1] == found[2]
    assert abs(found).max() < 2


def test_ranks_and_crowding() -> None:
    scores = np.array([0.9, 0.8, 0.8, 0.5, 0.9])
    costs = np.array([[3.0], [1.0], [2.0], [2.0], [3.0]])
    assert non_domination_ranks(scores, costs).tolist() == [0, 0, 1, 2, 0]
    distances = crowding_distances(np.array([[0.0], [1.0], [4.0]]))
    assert distances.tolist() == [np.inf, 1.0, np.inf]


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
