"""A candidate's value against brute force over the joint posterior, and the risk of failure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from autopeft.proposers import acquisition as module
from autopeft.proposers.acquisition import COST_MARGIN, Acquisition, FailureRisk
from autopeft.proposers.expected_hypervolume_improvement import (
    LevelPartition,
    log_expected_hypervolume_improvement,
)
from autopeft.records import TrialState, TrialStatus
from autopeft.results.front import ObjectiveScale
from autopeft.surrogates.curves import CurveModel
from autopeft.surrogates.gaussian_process import Points
from autopeft.surrogates.measured_costs import MeasuredCosts
from tests.proposers.contract import build, state_of
from tests.proposers.synthetic_job import MAX_STEPS, Landscape, default_landscape


@pytest.fixture(scope="module")
def landscape() -> Landscape:
    return default_landscape()


def a_job(landscape: Landscape) -> list[TrialState]:
    """Return completed trials, two that run with half a curve, and one just proposed."""
    proposals = landscape.space.portfolio() + build("random", landscape).propose(4)
    states = []
    for number, proposal in enumerate(proposals):
        status: TrialStatus = TrialStatus.COMPLETED
        steps: tuple[int, ...] = (24, 48, 96)
        if number in (4, 6):
            status, steps = TrialStatus.RUNNING, (16,)
        if number == len(proposals) - 1:
            status, steps = TrialStatus.PROPOSED, ()
        states.append(state_of(landscape, number, proposal, status, steps))
    return states


def test_gain_equals_brute_force_over_the_joint_posterior(
    landscape: Landscape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sample candidate and front together, score every world exactly, average."""
    monkeypatch.setattr(module, "LOG2_SAMPLES", 9)
    states, scale = a_job(landscape), landscape.scale()
    model = CurveModel(landscape.space, states, max_steps=MAX_STEPS)
    acquisition = Acquisition(
        model, states, scale, no_measured_costs(landscape, states, scale), np.random.default_rng(0)
    )
    candidates = landscape.space.sample(200, np.random.default_rng(2))
    points, costs = model.points_untried(candidates), landscape.costs(candidates)
    ours = acquisition(points, costs)
    # Candidates that matter; one near an anchor, so that the conditioning is felt.
    chosen = np.argsort(-ours)[:4]

    alive = [s for s in states if s.status in (TrialStatus.COMPLETED, TrialStatus.RUNNING)]
    alive += [s for s in states if s.status is TrialStatus.PROPOSED]
    anchors = model.points_of(alive)
    reference = scale.cost_reference_point
    reference = reference + COST_MARGIN * np.maximum(reference - scale.cost_ideal_point, 1.0)
    score_reference = float(model.warp(np.array(scale.score_reference)))
    anchor_costs = scale.costs([s.trial.costs for s in alive])
    for i in chosen:
        together = Points(
            X=np.concatenate([anchors.X, points.X[[i]]]),
            progress=np.ones(len(anchors) + 1),
            trials=np.append(anchors.trials, -1),
        )
        mean, covariance = model.process.joint(together)
        worlds = np.random.default_rng(1).multivariate_normal(
            mean, covariance, size=800, method="eigh"
        )
        gains = [
            np.exp(
                log_expected_hypervolume_improvement(
                    world[-1:],
                    np.zeros(1),
                    scale.costs([costs[i]]),
                    LevelPartition.of(world[:-1], anchor_costs, score_reference, reference),
                )[0]
            )
            for world in worlds
        ]
        error = np.std(gains) / len(gains) ** 0.5
        assert np.exp(ours[i]) == pytest.approx(np.mean(gains), abs=4 * error, rel=0.02)


def test_a_twin_of_a_pending_trial_gains_less(landscape: Landscape) -> None:
    """A proposed trial takes most of the gain of what would train almost as it does."""
    states = a_job(landscape)[:-1]
    model = CurveModel(landscape.space, states, max_steps=MAX_STEPS)
    free = Acquisition(
        model,
        states,
        landscape.scale(),
        no_measured_costs(landscape, states, landscape.scale()),
        np.random.default_rng(0),
    )
    candidates = landscape.space.sample(200, np.random.default_rng(2))
    points, costs = model.points_untried(candidates), landscape.costs(candidates)
    gains = free(points, costs)
    best = int(np.argmax(gains))
    template = a_job(landscape)[-1]
    trial = replace(template.trial, number=99, configuration=candidates[best], costs=costs[best])
    pending = [*states, replace(template, trial=trial)]
    taken = Acquisition(
        model,
        pending,
        landscape.scale(),
        no_measured_costs(landscape, pending, landscape.scale()),
        np.random.default_rng(0),
    )
    after = taken(points, costs)
    # One sampled front differs from another by chance, hence the slack.
    assert np.all(after <= gains + 0.3)
    assert after[best] < gains[best] - 0.3


def test_memory_beyond_what_failed_is_risky(landscape: Landscape) -> None:
    states = a_job(landscape)[:-1]
    dearest = max(states, key=lambda s: s.trial.costs.train_memory_bytes)
    states.remove(dearest)
    states.append(replace(dearest, status=TrialStatus.INFEASIBLE, curve=()))
    model = CurveModel(landscape.space, states, max_steps=MAX_STEPS)
    risk = FailureRisk(model, states)
    limit = dearest.trial.costs.train_memory_bytes
    sizes = (limit // 10, limit - 1, limit, 2 * limit)
    costs = [replace(dearest.trial.costs, train_memory_bytes=size) for size in sizes]
    points = model.points_of([dearest] * 4)
    risks = risk(points, costs)
    assert risks[0] == risks[1] == 0.0
    assert risks[2] == risks[3] == pytest.approx(0.5)


def test_divergence_is_local(landscape: Landscape) -> None:
    states = a_job(landscape)[:-1]
    diverged = replace(states[0], status=TrialStatus.DIVERGED, curve=())
    states = [diverged, *states[1:]]
    model = CurveModel(landscape.space, states, max_steps=MAX_STEPS)
    risk = FailureRisk(model, states)
    risks = risk(model.points_of(states), [s.trial.costs for s in states])
    assert np.argmax(risks) == 0
    assert risks[0] > 2 * np.median(risks[1:])
    assert np.all((risks >= 0) & (risks < 1))


def no_measured_costs(
    landscape: Landscape, states: Sequence[TrialState], scale: ObjectiveScale
) -> MeasuredCosts:
    return MeasuredCosts(landscape.space, scale, states, max_steps=MAX_STEPS)
