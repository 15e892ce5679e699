"""The ensemble: what it foretells, what it says of itself, the noise that is put back."""

from __future__ import annotations

import numpy as np
import pytest

from autopeft.bench import surrogate
from autopeft.bench.lookup import LookupWorld
from autopeft.bench.surrogate import SurrogateWorld, cross_validate, from_scale, to_scale
from autopeft.bench.table import Table
from autopeft.errors import AutopeftError
from autopeft.records import Trial
from autopeft.search_spaces.configuration import Configuration
from tests.bench.fake_table import make_table
from tests.service.fake_job import STEPS, fake_costs


@pytest.fixture(scope="module")
def world(table: Table) -> SurrogateWorld:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surrogate, "NUM_TREES", 20)
        return SurrogateWorld(table, LookupWorld(table=table))


def members(world: SurrogateWorld, n: int) -> list[Configuration]:
    return world.space.sample(n, np.random.default_rng(5))


def test_every_member_of_the_space_has_a_curve_and_costs(world: SurrogateWorld) -> None:
    new = members(world, 6)
    curves = world.means(new)
    assert curves.shape == (6, len(world.table.rungs))
    assert np.all((curves > 0) & (curves < 1))
    np.testing.assert_array_equal(curves, world.means(new))
    costs = world.costs(new)
    expected = fake_costs(world.space)(new)
    head = world.space.shape.num_head_parameters
    for cost, exact in zip(costs, expected, strict=True):
        assert cost.num_trainable_parameters == exact.num_adapter_parameters + head
        assert cost.train_memory_bytes == pytest.approx(exact.train_memory_bytes, rel=0.05)


def test_seeds_scatter_about_the_mean_and_repeat(world: SurrogateWorld) -> None:
    (new,) = members(world, 1)
    costs = world.costs([new])[0]

    def score(seed: int) -> float:
        trial = Trial(number=0, configuration=new, seed=seed, origin="random", costs=costs)
        return world.outcome(trial, 0, STEPS).score

    scores = [score(seed) for seed in range(60)]
    assert scores == [score(seed) for seed in range(60)]
    assert len(set(scores)) > 3
    final = to_scale(np.array([world.means([new])[0, -1]]), world.table)
    logits = to_scale(np.array(scores), world.table)
    assert np.mean(logits) == pytest.approx(final[0], abs=float(np.std(logits)))


def test_scales_invert_each_other(table: Table) -> None:
    scores = np.array([0.01, 0.5, 0.99])
    np.testing.assert_allclose(from_scale(to_scale(scores, table), table), scores)


def test_its_error_is_told(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surrogate, "NUM_TREES", 10)
    told = cross_validate(table)
    assert told["all"]["configurations"] > told["best_tenth"]["configurations"] >= 8
    # The fake job's scores are drawn by lot: nothing can foretell them.
    assert told["all"]["rmse"] > 0.5 * told["standard_deviation_of_scores"]


def test_there_is_nothing_better_to_find_than_the_truth(
    world: SurrogateWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, number in (("NUM_LOOKED_AT", 60), ("NUM_ROUNDS", 2)):
        monkeypatch.setattr(surrogate, name, number)
    truth = world.truth()
    finite = [score for score in truth.scores.values() if np.isfinite(score)]
    assert truth.best[-1] == max(finite)
    assert set(truth.front) <= set(truth.scores)


def test_a_table_can_be_too_small(tmp_path_factory: pytest.TempPathFactory) -> None:
    small = make_table(tmp_path_factory.mktemp("small"), configurations=7, repeated=6)
    with pytest.raises(AutopeftError, match="a surrogate takes at least"):
        SurrogateWorld(small, LookupWorld(table=small))
