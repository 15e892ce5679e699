"""How long configurations are expected to train."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from autopeft.records import TrialState
from autopeft.surrogates.trial_seconds import TrialSeconds
from tests.proposers.synthetic_job import MAX_STEPS, Landscape, default_landscape
from tests.surrogates.test_measured_costs import measured_states, seconds_of


@pytest.fixture(scope="module")
def landscape() -> Landscape:
    return default_landscape()


def timed(landscape: Landscape, states: list[TrialState]) -> list[TrialState]:
    """Return the trials with seconds by their configurations, half of them in each segment."""
    found = []
    for state in states:
        share = seconds_of(landscape, state.trial.configuration) * state.step / MAX_STEPS
        curve = tuple(replace(m, seconds=share / len(state.curve)) for m in state.curve)
        found.append(replace(state, curve=curve))
    return found


def test_seconds_are_learnt_from_trials_of_any_length(landscape: Landscape) -> None:
    states = timed(landscape, measured_states(landscape, 40))
    stopped = timed(landscape, [replace(s, curve=s.curve[:1]) for s in states[:20]])
    seconds = TrialSeconds(landscape.space, [*stopped, *states[20:]])
    members = landscape.space.sample(100, np.random.default_rng(77))
    expected = [seconds_of(landscape, member) for member in members]
    assert spearmanr(seconds.log(landscape.space.encode(members)), expected)[0] > 0.9


def test_nothing_known_means_all_alike(landscape: Landscape) -> None:
    X = landscape.space.encode(landscape.space.sample(5, np.random.default_rng(0)))
    np.testing.assert_array_equal(TrialSeconds(landscape.space, []).log(X), np.zeros(5))
