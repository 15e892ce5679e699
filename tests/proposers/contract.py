"""What every proposer must do; subclass :class:`ProposerContract` and name one."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from autopeft.proposers.base import PROPOSERS, Proposer
from autopeft.records import Proposal, Trial, TrialState, TrialStatus
from autopeft.results.front import Constraint
from autopeft.search_spaces.space import SearchSpace
from tests.proposers.synthetic_job import MAX_STEPS, Landscape, default_landscape, measurement

CHILD = """
import json, sys
from tests.proposers.contract import proposed_keys
print(json.dumps(proposed_keys(sys.argv[1])))
"""


def build(name: str, landscape: Landscape, *, seed: int = 0) -> Proposer:
    """Build a proposer by its registered name."""
    scale = landscape.scale()
    return PROPOSERS.get(name)(
        landscape.space, scale, landscape.costs, max_steps=MAX_STEPS, seed=seed
    )


def state_of(
    landscape: Landscape,
    number: int,
    proposal: Proposal,
    status: TrialStatus,
    steps: tuple[int, ...] = (),
) -> TrialState:
    """Return a trial measured at some steps."""
    configuration = proposal.configuration
    trial = Trial(
        number=number,
        configuration=configuration,
        seed=0,
        origin=proposal.origin,
        costs=landscape.costs([configuration])[0],
    )
    curve = tuple(measurement(number, step, landscape.score(configuration, step)) for step in steps)
    return TrialState(trial=trial, status=status, curve=curve)


#: A job in which everything happens that can.
FATES: tuple[tuple[TrialStatus, tuple[int, ...]], ...] = (
    (TrialStatus.COMPLETED, (24, 48, 96)),
    (TrialStatus.STOPPED, (16,)),
    (TrialStatus.COMPLETED, (24, 48, 96)),
    (TrialStatus.DIVERGED, ()),
    (TrialStatus.PAUSED, (24, 48)),
    (TrialStatus.COMPLETED, (96,)),
    (TrialStatus.INFEASIBLE, ()),
    (TrialStatus.RUNNING, (16,)),
    (TrialStatus.FAILED, (16,)),
    (TrialStatus.PROPOSED, ()),
)


def play(proposer: Proposer, landscape: Landscape, n: int) -> list[Proposal]:
    """Take ``n`` proposals one by one; each meets its fate of :data:`FATES`."""
    proposals = []
    for number in range(n):
        (proposal,) = proposer.propose(1)
        status, steps = FATES[number % len(FATES)]
        proposer.observe(state_of(landscape, number, proposal, TrialStatus.PROPOSED))
        proposer.observe(state_of(landscape, number, proposal, status, steps))
        proposals.append(proposal)
    return proposals


def proposed_keys(name: str, n: int = 15) -> list[str]:
    """Return the keys of the first proposals of a job."""
    landscape = default_landscape()
    return [p.configuration.key for p in play(build(name, landscape), landscape, n)]


class ProposerContract:
    """The tests; ``name`` is what the proposer is registered under."""

    name: ClassVar[str]
    origins: ClassVar[frozenset[str]]

    def searched_space(self, proposer: Proposer) -> SearchSpace:
        """Return the space proposals are members of."""
        return proposer.space

    @pytest.fixture(scope="class")
    @classmethod
    def landscape(cls) -> Landscape:
        return default_landscape()

    @pytest.fixture(scope="class")
    @classmethod
    def played(cls, landscape: Landscape) -> tuple[Proposer, list[Proposal]]:
        proposer = build(cls.name, landscape)
        return proposer, play(proposer, landscape, 15)

    def test_all_are_distinct_members_and_say_where_they_come_from(
        self, played: tuple[Proposer, list[Proposal]]
    ) -> None:
        proposer, proposals = played
        space = self.searched_space(proposer)
        assert [space.explain(p.configuration) for p in proposals] == [[]] * 15
        assert len({p.configuration.key for p in proposals}) == 15
        assert {p.origin for p in proposals} <= self.origins

    def test_the_same_in_another_process_with_other_threads(
        self, played: tuple[Proposer, list[Proposal]]
    ) -> None:
        root = Path(__file__).parents[2]
        environment = {**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "3"}
        child = subprocess.run(
            [sys.executable, "-c", CHILD, self.name],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(child.stdout) == [p.configuration.key for p in played[1]]

    def test_replay_of_the_final_states_gives_the_same_next(
        self, played: tuple[Proposer, list[Proposal]], landscape: Landscape
    ) -> None:
        proposer, _ = played
        rebuilt = build(self.name, landscape)
        for state in reversed(list(proposer.states.values())):
            rebuilt.observe(state)
        assert rebuilt.propose(1) == proposer.propose(1)

    def test_asking_changes_nothing(self, played: tuple[Proposer, list[Proposal]]) -> None:
        proposer, _ = played
        assert proposer.propose(1) == proposer.propose(1)

    @pytest.mark.parametrize("num_known", [0, 13])
    def test_many_at_once_equal_one_by_one(self, landscape: Landscape, num_known: int) -> None:
        at_once, one_by_one = (build(self.name, landscape) for _ in range(2))
        for proposer in (at_once, one_by_one):
            play(proposer, landscape, num_known)
        batch = at_once.propose(3)
        single = []
        for number in range(num_known, num_known + 3):
            single += one_by_one.propose(1)
            pending = state_of(landscape, number, single[-1], TrialStatus.PROPOSED)
            one_by_one.observe(pending)
        assert batch == single

    def test_seeds_differ(self, landscape: Landscape) -> None:
        sequences = []
        for seed in (0, 1):
            proposer = build(self.name, landscape, seed=seed)
            sequences.append([p.configuration for p in play(proposer, landscape, 13)])
        assert sequences[0] != sequences[1]

    @pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, 0.5])
    def test_odd_and_constant_scores_do_no_harm(self, landscape: Landscape, score: float) -> None:
        proposer = build(self.name, landscape)
        for number in range(14):
            (proposal,) = proposer.propose(1)
            state = state_of(landscape, number, proposal, TrialStatus.COMPLETED, (48, 96))
            curve = tuple(replace(m, score=score) for m in state.curve)
            proposer.observe(replace(state, curve=curve))
        assert len(proposer.propose(1)) == 1

    def test_known_costs_keep_their_limits(self, landscape: Landscape) -> None:
        limit = 100_000
        proposer = build(self.name, landscape)
        constraint = Constraint(name="num_trainable_parameters", maximum=limit)
        proposer.scale = replace(proposer.scale, constraints=(constraint,))
        proposals = play(proposer, landscape, 13)
        costs = landscape.costs([p.configuration for p in proposals])
        assert max(cost.num_trainable_parameters for cost in costs) <= limit
