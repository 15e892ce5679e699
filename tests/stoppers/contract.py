"""What every stopper must do; subclass :class:`StopperContract` and name one."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from autopeft.records import Trial, TrialState, TrialStatus
from autopeft.search_spaces.configuration import Configuration
from autopeft.stoppers.base import STOPPERS, Action, Stopper
from tests.proposers.synthetic_job import MAX_STEPS, Landscape, default_landscape, measurement


def build(name: str, landscape: Landscape, *, max_steps: int = MAX_STEPS) -> Stopper:
    """Build a stopper by its registered name."""
    return STOPPERS.get(name)(
        landscape.space, landscape.scale(), landscape.costs, max_steps=max_steps, seed=0
    )


def trial_state(
    landscape: Landscape,
    number: int,
    configuration: Configuration,
    curve: dict[int, float],
    status: TrialStatus = TrialStatus.RUNNING,
) -> TrialState:
    """Return a trial with a given curve."""
    trial = Trial(
        number=number,
        configuration=configuration,
        seed=0,
        origin="test",
        costs=landscape.costs([configuration])[0],
    )
    rows = tuple(measurement(number, step, score) for step, score in curve.items())
    return TrialState(trial=trial, status=status, curve=rows)


def crowd(landscape: Landscape, rung: int, n: int = 14) -> list[TrialState]:
    """Return trials in every status, all measured at ``rung`` where they got that far."""
    statuses = (
        TrialStatus.COMPLETED,
        TrialStatus.PAUSED,
        TrialStatus.RUNNING,
        TrialStatus.STOPPED,
        TrialStatus.DIVERGED,
        TrialStatus.COMPLETED,
        TrialStatus.PROPOSED,
    )
    members = landscape.space.sample(n, np.random.default_rng(5))
    states = []
    for number, configuration in enumerate(members):
        status = statuses[number % len(statuses)]
        steps = () if status in (TrialStatus.DIVERGED, TrialStatus.PROPOSED) else (rung,)
        if status is TrialStatus.COMPLETED:
            steps = (*steps, MAX_STEPS) if rung != MAX_STEPS else steps
        curve = {step: landscape.score(configuration, step) for step in steps}
        states.append(trial_state(landscape, number, configuration, curve, status))
    return states


class StopperContract:
    """The tests; ``name`` is what the stopper is registered under."""

    name: ClassVar[str]

    @pytest.fixture(scope="class")
    @classmethod
    def landscape(cls) -> Landscape:
        return default_landscape()

    @pytest.fixture
    def stopper(self, landscape: Landscape) -> Stopper:
        return build(self.name, landscape)

    @pytest.mark.parametrize("max_steps", [1, 3, 10, 96, 1000])
    def test_rungs_climb_to_the_last_step(self, landscape: Landscape, max_steps: int) -> None:
        stopper = build(self.name, landscape, max_steps=max_steps)
        step, rungs = 0, []
        while step < max_steps:
            following = stopper.next_rung(step)
            assert step < following <= max_steps
            rungs.append(following)
            step = following
        assert len(rungs) <= 6

    def test_a_rung_is_found_from_any_step(self, stopper: Stopper) -> None:
        following = [stopper.next_rung(step) for step in range(MAX_STEPS)]
        assert all(rung > step for step, rung in enumerate(following))
        assert following == sorted(following)

    def test_decisions_are_pure_and_say_why(self, landscape: Landscape, stopper: Stopper) -> None:
        *others, last = crowd(landscape, stopper.next_rung(0), n=15)
        again = build(self.name, landscape)
        decision = stopper.decide(last, others)
        assert decision == stopper.decide(last, others)
        assert decision == again.decide(last, others[::-1])
        assert len(decision.reason) > 10

    def test_a_first_trial_goes_on(self, landscape: Landscape, stopper: Stopper) -> None:
        (only,) = crowd(landscape, stopper.next_rung(0), n=1)
        state = replace(only, status=TrialStatus.RUNNING, curve=only.curve[:1])
        assert stopper.decide(state, []).action is Action.CONTINUE

    def test_nothing_to_promote(self, landscape: Landscape, stopper: Stopper) -> None:
        assert stopper.promote([]) is None
        unpaused = [
            s for s in crowd(landscape, stopper.next_rung(0)) if s.status is not TrialStatus.PAUSED
        ]
        assert stopper.promote(unpaused) is None

    def test_promotes_paused_trials_only(self, landscape: Landscape, stopper: Stopper) -> None:
        states = crowd(landscape, stopper.next_rung(0))
        paused = {s.trial.number for s in states if s.status is TrialStatus.PAUSED}
        promoted = stopper.promote(states)
        assert promoted == stopper.promote(states[::-1])
        assert promoted is None or promoted[0] in paused

    @pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
    def test_an_unfinite_score_raises_nothing(
        self, landscape: Landscape, stopper: Stopper, score: float
    ) -> None:
        *others, last = crowd(landscape, stopper.next_rung(0), n=8)
        rung = stopper.next_rung(0)
        odd = replace(last, curve=(measurement(last.trial.number, rung, score),))
        assert stopper.decide(odd, others).reason
