"""Searches among rows: nothing but what was recorded comes out, and exactly that."""

from __future__ import annotations

import numpy as np
import pytest

from autopeft.bench.lookup import Curve, LookupSpace, LookupWorld
from autopeft.bench.table import Table
from autopeft.records import FailureKind, Trial
from autopeft.search_spaces.configuration import Configuration
from tests.service.fake_job import STEPS, fake_score


@pytest.fixture(scope="module")
def world(table: Table) -> LookupWorld:
    return LookupWorld(table=table)


@pytest.fixture(scope="module")
def space(world: LookupWorld) -> LookupSpace:
    return world.space()


def trial(world: LookupWorld, configuration: Configuration, seed: int = 0) -> Trial:
    costs = world.costs([configuration])[0]
    return Trial(number=0, configuration=configuration, seed=seed, origin="random", costs=costs)


def test_all_that_a_space_gives_are_rows(space: LookupSpace, table: Table) -> None:
    generator = np.random.default_rng(0)
    rows = set(space.rows)
    full = table.space
    assert set(space.sample(9, generator)) <= rows
    assert len(space.sample(10**6, generator)) == len(rows)
    assert set(space.sobol(9, seed=1, skip=3)) <= rows
    assert {space.mutate(row, generator) for row in space.rows} <= rows
    assert set(space.decode(full.encode(full.sample(9, generator)))) <= rows
    assert {space.nearest(each) for each in full.sample(9, generator)} <= rows
    assert {each.configuration for each in space.portfolio()} <= rows


def test_rows_are_members_and_others_are_told_why_not(space: LookupSpace, table: Table) -> None:
    assert all(row in space for row in space.rows)
    others = table.space.sample(50, np.random.default_rng(9))
    other = next(each for each in others if each not in set(space.rows))
    assert space.explain(other) == ["it is not in the table"]
    assert other in table.space


def test_a_decoded_row_is_itself_and_mutants_are_near(space: LookupSpace) -> None:
    X = space.encode(space.rows)
    assert space.decode(X) == list(space.rows)
    generator = np.random.default_rng(0)
    row = space.rows[0]
    distances = ((X - X[0]) ** 2).sum(axis=1)
    mutants = [space.rows.index(space.mutate(row, generator)) for _ in range(200)]
    assert 0 not in mutants
    assert np.mean(distances[mutants]) < np.mean(distances[1:])


def test_the_sequence_visits_every_row_once(space: LookupSpace) -> None:
    n = len(space.rows)
    assert set(space.sobol(n, seed=4)) == set(space.rows)
    assert space.sobol(n, seed=4) == space.sobol(n, seed=4, skip=n)
    assert space.sobol(n, seed=4) != space.sobol(n, seed=5)


def test_scores_are_those_recorded(world: LookupWorld) -> None:
    for configuration in world.configurations():
        curves = world.curves[configuration.key]
        if curves[0].failure is not None:
            continue
        outcome = world.outcome(trial(world, configuration), 0, STEPS)
        recorded = [fake_score(configuration, STEPS, seed) for seed in range(3)]
        assert any(outcome.score == pytest.approx(score) for score in recorded)
        assert outcome.seconds == pytest.approx(sum(curves[0].seconds))


def test_seeds_of_a_row_are_drawn_by_the_seed_of_the_search(world: LookupWorld) -> None:
    repeated = next(each for each in world.configurations() if len(world.curves[each.key]) == 3)
    scores = [world.outcome(trial(world, repeated, seed), 0, STEPS).score for seed in range(40)]
    assert len(set(scores)) == 3
    assert scores == [
        world.outcome(trial(world, repeated, seed), 0, STEPS).score for seed in range(40)
    ]


def test_what_diverged_does_so_again(world: LookupWorld) -> None:
    failed = [
        each
        for each in world.configurations()
        if any(curve.failure is not None for curve in world.curves[each.key])
    ]
    assert len(failed) == 1
    outcomes = [world.outcome(trial(world, failed[0], seed), 0, STEPS) for seed in range(30)]
    assert FailureKind.DIVERGED in {outcome.failure for outcome in outcomes}
    assert np.isnan(world.true_scores(failed)[failed[0].key])


def test_between_rungs_a_curve_is_a_line_over_log_steps() -> None:
    curve = Curve(steps=(4, 16, 32), scores=(0.2, 0.6, 0.7), seconds=(1.0, 3.0, 4.0))
    assert curve.score_at(8) == pytest.approx(0.4)
    assert curve.score_at(1) == pytest.approx(0.2)
    assert curve.score_at(32) == pytest.approx(0.7)
    assert curve.seconds_between(0, 32) == pytest.approx(8.0)
    assert curve.seconds_between(4, 10) == pytest.approx(1.5)
