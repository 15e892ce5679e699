"""The contract of every stopper, and what halving promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from autopeft.records import Costs, TrialState, TrialStatus
from autopeft.results.front import non_dominated
from autopeft.search_spaces.configuration import Configuration
from autopeft.stoppers.base import Action, Stopper
from autopeft.stoppers.halving import MIN_MEASURED, HalvingStopper
from autopeft.stoppers.mo_asha import HyperbandStopper, MoAshaStopper
from tests.proposers.synthetic_job import Landscape, default_landscape, run_job
from tests.stoppers.contract import StopperContract, build, trial_state

RUNG = 16


class TestNone(StopperContract):
    name = "none"

    def test_one_segment(self, landscape: Landscape) -> None:
        assert build(self.name, landscape).next_rung(0) == 96

    def test_resumes_what_another_stopper_paused(self, landscape: Landscape) -> None:
        member = landscape.space.portfolio()[0].configuration
        paused = trial_state(landscape, 3, member, {16: 0.6}, TrialStatus.PAUSED)
        promoted = build(self.name, landscape).promote([paused])
        assert promoted is not None
        assert promoted[0] == 3


class TestMoAsha(StopperContract):
    name = "mo-asha"

    def test_rungs(self, landscape: Landscape) -> None:
        stopper = build(self.name, landscape)
        assert isinstance(stopper, MoAshaStopper)
        assert stopper.rungs == (6, 12, 24, 48, 96)

    def test_the_better_half_goes_on(self, landscape: Landscape) -> None:
        """The best and the cheapest are on the front of their rung whatever the others do."""
        members = cheap_to_dear(landscape)[:9]
        scores = [0.5, 0.2, 0.9, 0.3, 0.1, 0.4, 0.3, 0.2, 0.1]
        states = [
            trial_state(landscape, i, member, {6: score}, TrialStatus.PAUSED)
            for i, (member, score) in enumerate(zip(members, scores, strict=True))
        ]
        stopper = build(self.name, landscape)
        going_on = [
            number
            for number, state in enumerate(states)
            if stopper.decide(replace(state, status=TrialStatus.RUNNING), states).action
            is Action.CONTINUE
        ]
        assert len(going_on) == 4
        assert {0, 2} <= set(going_on)

    def test_promotes_what_a_growing_crowd_makes_room_for(self, landscape: Landscape) -> None:
        members = cheap_to_dear(landscape)
        best = trial_state(landscape, 0, members[0], {6: 0.9})
        second = trial_state(landscape, 1, members[1], {6: 0.8}, TrialStatus.PAUSED)
        stopper = build(self.name, landscape)
        assert stopper.promote([best, second]) is None
        crowd = [trial_state(landscape, i, members[i], {6: 0.1}) for i in (2, 3)]
        promoted = stopper.promote([best, second, *crowd])
        assert promoted is not None
        assert promoted == (
            1,
            "accuracy 0.8 at step 6: place 2 of the 4 measured there; the first 2 go on",
        )


class TestHyperband(StopperContract):
    name = "hyperband"

    def test_each_trial_has_its_bracket(self, landscape: Landscape) -> None:
        stopper = build(self.name, landscape)
        assert isinstance(stopper, HyperbandStopper)
        brackets = [stopper.bracket(number) for number in range(300)]
        shares = np.bincount(brackets) / 300
        assert len(shares) == len(stopper.rungs)
        # Cheap brackets have more trials.
        assert shares[0] > 2 * shares[-1] > 0

    def test_a_trial_of_a_late_bracket_is_not_judged_early(self, landscape: Landscape) -> None:
        stopper = build(self.name, landscape)
        assert isinstance(stopper, HyperbandStopper)
        members = cheap_to_dear(landscape)
        others = [trial_state(landscape, i, members[0], {6: 0.9}) for i in range(1000, 1008)]
        for number in range(40):
            state = trial_state(landscape, number, members[-1], {6: 0.1})
            action = stopper.decide(state, others).action
            assert (action is Action.PAUSE) == (stopper.bracket(number) == 0)


class TestMedian(StopperContract):
    name = "median"

    def test_only_those_that_cost_no_more_count(self, landscape: Landscape) -> None:
        members = cheap_to_dear(landscape)
        others = [trial_state(landscape, i, members[i + 5], {12: 0.9}) for i in range(5)]
        stopper = build(self.name, landscape)
        cheap = trial_state(landscape, 9, members[0], {12: 0.1})
        assert stopper.decide(cheap, others).action is Action.CONTINUE
        dear = trial_state(landscape, 9, members[-1], {12: 0.1})
        assert stopper.decide(dear, others).action is Action.STOP
        assert stopper.decide(replace(dear, curve=others[0].curve), others).action is (
            Action.CONTINUE
        )


class TestExtrapolate(StopperContract):
    name = "extrapolate"

    def test_needs_trials_that_went_to_the_end(self, landscape: Landscape) -> None:
        others = [
            replace(each, status=TrialStatus.RUNNING, curve=each.curve[:1])
            for each in field_of(landscape, np.linspace(0.8, 0.9, 8))
        ]
        state = trial_state(landscape, 99, cheap_to_dear(landscape)[-1], {RUNG: 0.6})
        decision = build(self.name, landscape).decide(state, others)
        assert decision.action is Action.CONTINUE
        assert "which takes 4 trials trained to the end (so far 0)" in decision.reason

    def test_hopeless_waits_and_hopeful_goes_on(self, landscape: Landscape) -> None:
        members = cheap_to_dear(landscape)
        others = [
            trial_state(landscape, i, c, {24: s - 0.1, 48: s - 0.03, 96: s}, TrialStatus.COMPLETED)
            for i, (c, s) in enumerate(zip(members, np.linspace(0.80, 0.82, 8), strict=False))
        ]
        stopper = build(self.name, landscape)
        bad = trial_state(landscape, 99, members[-1], {24: 0.3})
        decision = stopper.decide(bad, others)
        assert decision.action is Action.PAUSE
        assert "chance of ending on the front, 10% needed; trial" in decision.reason
        good = trial_state(landscape, 99, members[-1], {24: 0.8})
        assert stopper.decide(good, others).action is Action.CONTINUE
        paused = replace(bad, status=TrialStatus.PAUSED)
        assert stopper.promote([*others, paused]) is None
        waiting = trial_state(landscape, 100, members[-2], {24: 0.8}, TrialStatus.PAUSED)
        promoted = stopper.promote([*others, paused, waiting])
        assert promoted is not None
        assert promoted[0] == 100


class TestHalving(StopperContract):
    name = "halving"

    def test_rungs(self, landscape: Landscape) -> None:
        stopper = build(self.name, landscape)
        assert isinstance(stopper, HalvingStopper)
        assert stopper.rungs == (24, 48, 96)

    def test_the_first_few_go_on_unjudged(self, landscape: Landscape) -> None:
        members = cheap_to_dear(landscape)
        others = [
            trial_state(landscape, i, c, {RUNG: 0.9}, TrialStatus.RUNNING)
            for i, c in enumerate(members[: MIN_MEASURED - 1])
        ]
        state = trial_state(landscape, 9, members[-1], {RUNG: 0.5})
        decision = build(self.name, landscape).decide(state, others)
        assert decision.action is Action.CONTINUE
        assert "too early to judge, which takes 3 other trials" in decision.reason

    def test_worse_than_all_that_cost_less_waits(self, landscape: Landscape) -> None:
        others = field_of(landscape, np.linspace(0.8, 0.9, 8))
        dearest = cheap_to_dear(landscape)[-1]
        state = trial_state(landscape, 99, dearest, {RUNG: 0.6})
        decision = build(self.name, landscape).decide(state, others)
        assert decision.action is Action.PAUSE
        assert (
            "100% of those that cost no more score better (8 measured); at most" in decision.reason
        )
        # Asked again at once, nothing has changed.
        paused = replace(state, status=TrialStatus.PAUSED)
        assert build(self.name, landscape).promote([*others, paused]) is None

    def test_a_promoted_trial_is_one_that_now_leads(self, landscape: Landscape) -> None:
        stopper = build(self.name, landscape)
        dearest = cheap_to_dear(landscape)[-1]
        paused = trial_state(landscape, 99, dearest, {RUNG: 0.7}, TrialStatus.PAUSED)
        assert stopper.promote([*field_of(landscape, np.linspace(0.8, 0.9, 8)), paused]) is None
        promoted = stopper.promote([*field_of(landscape, np.linspace(0.5, 0.6, 8)), paused])
        assert promoted is not None
        assert promoted[0] == 99


class FlatCosts(Landscape):
    """One parameter count, and memory equal up to less than the front's resolution."""

    def costs(self, configurations: Sequence[Configuration]) -> list[Costs]:
        return [
            Costs(
                num_trainable_parameters=1000,
                num_adapter_parameters=1000,
                train_memory_bytes=10_000_000 + int(c.key, 16) % 3000,
            )
            for c in configurations
        ]


class OneCheapest(Landscape):
    """One member, the first of the portfolio, is cheaper than all others in everything."""

    def costs(self, configurations: Sequence[Configuration]) -> list[Costs]:
        cheapest = self.space.portfolio()[0].configuration
        return [
            replace(cost, num_trainable_parameters=1, train_memory_bytes=1)
            if c == cheapest
            else cost
            for c, cost in zip(configurations, super().costs(configurations), strict=True)
        ]


def test_the_first_plain_lora_is_trained_to_the_end() -> None:
    landscape = default_landscape()
    others = field_of(landscape, np.linspace(0.8, 0.9, 8))
    poor = trial_state(landscape, 99, cheap_to_dear(landscape)[-1], {RUNG: 0.6})
    first, second = (
        replace(poor, trial=replace(poor.trial, number=number, origin="portfolio:lora-sweep"))
        for number in (20, 21)
    )
    stopper = build("halving", landscape)

    assert stopper.decide(first, others).action is Action.CONTINUE
    assert "baseline" in stopper.decide(first, others).reason
    assert stopper.decide(second, [*others, first]).action is Action.PAUSE


def test_reasons_give_the_metric_as_it_is_known() -> None:
    landscape = default_landscape()
    others = field_of(landscape, np.linspace(0.8, 0.9, 8))
    state = trial_state(landscape, 99, cheap_to_dear(landscape)[-1], {RUNG: 0.6})
    last = replace(state.curve[-1], metrics={"loss": 5.1}, score=-5.1)
    scale = replace(landscape.scale(), metric="loss", score_reference=-9.0, score_ideal=0.0)
    stopper = HalvingStopper(landscape.space, scale, landscape.costs, max_steps=96, seed=0)
    judged = stopper.decide(replace(state, curve=(last,)), others)
    first = stopper.decide(replace(state, curve=(last,)), [])

    assert judged.reason.startswith("loss 5.1 at step 16: ")
    assert first.reason.startswith("loss 5.1 at step 16: ")


def test_costs_are_compared_at_the_resolution_of_the_front() -> None:
    landscape = FlatCosts(space=default_landscape().space)
    others = field_of(landscape, np.linspace(0.8, 0.9, 8))
    state = trial_state(landscape, 99, cheap_to_dear(landscape)[-1], {RUNG: 0.6})
    reason = build("halving", landscape).decide(state, others).reason
    assert "100% of those that cost no more score better (8 measured); at most" in reason


def cheap_to_dear(landscape: Landscape) -> list[Configuration]:
    """Return LoRA members of which each costs at least as much as the one before."""
    members = [
        c for c in landscape.space.sample(1500, np.random.default_rng(1)) if "lora" in c.methods
    ]
    costs = landscape.scale().costs(landscape.costs(members))
    chain: list[int] = []
    for i in np.lexsort(costs.T[::-1]):
        if not chain or np.all(costs[i] >= costs[chain[-1]]):
            chain.append(int(i))
    return [members[i] for i in chain]


def field_of(landscape: Landscape, scores: NDArray[np.float64]) -> list[TrialState]:
    """Return completed trials, cheap ones, with these scores at the first rung."""
    return [
        trial_state(
            landscape,
            i,
            configuration,
            {RUNG: float(score), 48: float(score) + 0.02, 96: float(score) + 0.03},
            TrialStatus.COMPLETED,
        )
        for i, (configuration, score) in enumerate(
            zip(cheap_to_dear(landscape), scores, strict=False)
        )
    ]


@cache
def one_cheapest() -> tuple[OneCheapest, Stopper]:
    landscape = OneCheapest(space=default_landscape().space)
    return landscape, build("halving", landscape)


@settings(max_examples=15, deadline=None)
@given(own=st.floats(0.0, 1.0), dearer=st.lists(st.floats(0.0, 1.0), min_size=3, max_size=8))
def test_the_smallest_is_never_judged_by_larger_ones(own: float, dearer: list[float]) -> None:
    """Whatever dearer trials score, a trial that nothing in the space undercuts goes on."""
    landscape, stopper = one_cheapest()
    smallest, *others = [p.configuration for p in landscape.space.portfolio()]
    others += landscape.space.sample(10, np.random.default_rng(4))
    states = [
        trial_state(landscape, i + 1, c, {RUNG: score, 96: score}, TrialStatus.COMPLETED)
        for i, (c, score) in enumerate(zip(others, dearer, strict=False))
    ]
    decision = stopper.decide(trial_state(landscape, 0, smallest, {RUNG: own}), states)
    assert decision.action is Action.CONTINUE
    assert "no other one is as cheap" in decision.reason


@pytest.mark.parametrize("cost_names", [(), ("num_adapter_parameters",)])
def test_other_objectives_than_the_usual_three(cost_names: tuple[str, ...]) -> None:
    landscape = default_landscape()
    landscape.cost_names = cost_names
    job = run_job(landscape, proposer="mobo", stopper="halving", trials=14)
    best = max(landscape.final(s.trial.configuration) for s in job.states)
    done = [s for s in job.states if s.status is TrialStatus.COMPLETED]
    assert max(landscape.final(s.trial.configuration) for s in done) > best - 0.02
    assert {s.trial.origin for s in job.states} >= {"mobo", "sobol"}


@pytest.mark.parametrize("workers", [1, 3])
def test_a_third_is_stopped_and_the_front_survives(workers: int) -> None:
    landscape = default_landscape()
    job = run_job(landscape, proposer="random", stopper="halving", workers=workers)
    assert job.share_stopped >= 1 / 3
    assert job.steps < 0.7 * 24 * 96
    kept = completed_share_of_true_front(landscape, job.states)
    assert kept >= 0.6


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_whole_jobs_stop_a_quarter_and_keep_the_front(seed: int) -> None:
    landscape = default_landscape(seed)
    job = run_job(landscape, proposer="mobo", stopper="halving", seed=seed)
    # How many are worth stopping depends on how good the proposals are; a third is usual.
    assert job.share_stopped >= 1 / 4
    assert completed_share_of_true_front(landscape, job.states) >= 0.7


def completed_share_of_true_front(landscape: Landscape, states: list[TrialState]) -> float:
    """Return the share of the noise-free front over all trials that was trained to the end."""
    alive = [s for s in states if s.status is not TrialStatus.DIVERGED]
    finals = np.array([landscape.final(s.trial.configuration) for s in alive])
    front = non_dominated(finals, landscape.scale().costs([s.trial.costs for s in alive]))
    done = np.array([s.status is TrialStatus.COMPLETED for s in alive])
    return float(done[front].mean())
