"""What the default proposer does besides the contract."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from autopeft.proposers import mobo
from autopeft.proposers.base import Proposer
from autopeft.proposers.mobo import EXPLORE, SCORE, MoboProposer
from autopeft.records import TrialStatus
from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.space import load_space
from autopeft.service.simulation import simulate
from tests.proposers.contract import build, state_of
from tests.proposers.synthetic_job import MAX_STEPS, Landscape, bert_shape, default_landscape


@pytest.fixture(scope="module")
def landscape() -> Landscape:
    return default_landscape()


def observed(proposer: Proposer, landscape: Landscape, n: int) -> Proposer:
    """Let a proposer see its own proposals trained to the end."""
    for number in range(n):
        (proposal,) = proposer.propose(1)
        steps = (24, 48, 96)
        proposer.observe(state_of(landscape, number, proposal, TrialStatus.COMPLETED, steps))
    return proposer


def test_every_other_proposal_improves_the_score_alone(landscape: Landscape) -> None:
    proposer = observed(build("mobo", landscape), landscape, 12)
    origins = [proposal.origin for proposal in proposer.propose(4)]
    assert origins[1::2] == [SCORE, SCORE]
    assert set(origins[::2]) <= {"mobo", EXPLORE}


def test_one_in_four_explores_while_the_front_stands_still(
    landscape: Landscape, monkeypatch: pytest.MonkeyPatch
) -> None:
    proposer = observed(build("mobo", landscape), landscape, 9)
    assert EXPLORE not in [proposal.origin for proposal in proposer.propose(4)]
    monkeypatch.setattr(mobo, "NUM_STALLED", 0)
    assert [proposal.origin for proposal in proposer.propose(4)].count(EXPLORE) == 1


@dataclass
class Plateau(Landscape):
    """A landscape on which nothing is better than anything else, but for noise."""

    noise: float = 0.0005

    def final(self, c: Configuration) -> float:
        """Return the same for all."""
        return 0.75

    def misfit(self, c: Configuration) -> float:
        """Any learning rate does."""
        return 0.0


def test_a_search_ends_where_nothing_is_left_to_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mobo, "MIN_MEASURED_TO_DOUBT", 12)
    space = load_space("default", bert_shape(num_layers=2))
    plateau = Plateau(space=space, cost_names=())
    done = simulate(
        space,
        plateau.scale(),
        plateau.costs,
        plateau,
        max_steps=MAX_STEPS,
        proposer="mobo",
        stopper="none",
        trials=30,
    )
    assert 12 <= len(done.log.trials) < 30
    assert done.log.end_reason is not None
    assert done.log.end_reason.startswith("further improvement is improbable")


def test_early_trials_carry_no_doubt(landscape: Landscape) -> None:
    proposer = observed(
        MoboProposer(
            landscape.space, landscape.scale(), landscape.costs, max_steps=MAX_STEPS, seed=0
        ),
        landscape,
        10,
    )
    assert [proposal.doubt for proposal in proposer.propose(2)] == ["", ""]
