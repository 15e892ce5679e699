"""What a search is worth, on a job small enough to know by heart."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from autopeft.bench.measures import (
    TOLERANCE,
    Truth,
    front_recall,
    igd_plus,
    measure,
    preset_budgets,
)
from autopeft.records import Costs
from autopeft.results.front import ObjectiveScale
from autopeft.service.simulation import Moment, Simulation

SCALE = ObjectiveScale(
    metric="accuracy",
    cost_names=("num_trainable_parameters", "train_memory_bytes"),
    score_reference=0.5,
    score_ideal=1.0,
    cost_ideal=(10.0, 1000.0),
    cost_reference=(10_000.0, 8000.0),
)
#: Key: true score, parameters, memory.
WORLD = {
    "tiny": (0.60, 10, 1000),
    "small": (0.70, 100, 2000),
    "waste": (0.69, 1000, 4000),
    "large": (0.90, 5000, 7000),
    "lucky": (0.80, 4000, 7000),
    "broken": (math.nan, 20, 1500),
}
COSTS = {
    key: Costs(num_trainable_parameters=p, num_adapter_parameters=p, train_memory_bytes=m)
    for key, (_, p, m) in WORLD.items()
}


@pytest.fixture
def truth() -> Truth:
    return Truth.of(SCALE, {key: score for key, (score, _, _) in WORLD.items()}, COSTS)


def simulation(*trials: tuple[str, float]) -> Simulation:
    """Return a search that trained these to the end, with the scores it saw."""
    states = {
        i: SimpleNamespace(trial=SimpleNamespace(configuration=SimpleNamespace(key=key)))
        for i, (key, _) in enumerate(trials)
    }
    trace = tuple(
        Moment(
            seconds=10.0 * (i + 1),
            steps=100 * (i + 1),
            trial=i,
            step=100,
            what="complete",
            score=score,
        )
        for i, (_, score) in enumerate(trials)
    )
    log = cast(Any, SimpleNamespace(states=states, total_steps=100 * len(trials)))
    return Simulation(log=log, trace=trace, seconds=10.0 * len(trials), entries=())


def test_budgets_lie_between_the_ends_of_the_costs() -> None:
    budgets = preset_budgets(SCALE)
    assert [len(budget.limits) for budget in budgets] == [1, 1, 1, 1, 1, 0]
    assert budgets[1].limits == {"num_trainable_parameters": 316}
    assert budgets[3].limits == {"train_memory_bytes": 2000}
    assert preset_budgets(replace(SCALE, cost_names=()))[0].name == "no limit"


def test_the_best_at_each_budget_and_the_front_are_found(truth: Truth) -> None:
    assert truth.best == (0.60, 0.70, 0.70, 0.70, 0.70, 0.90)
    assert truth.front == ("large", "lucky", "small", "tiny")


def test_single_runs_do_not_make_the_best() -> None:
    scores = {key: score for key, (score, _, _) in WORLD.items()}
    seeds = dict.fromkeys(WORLD, 2) | {"large": 1}
    assert Truth.of(SCALE, scores, COSTS, num_seeds=seeds).best[-1] == 0.80


def test_a_target_is_reached_by_the_incumbents_true_score(truth: Truth) -> None:
    lucky = measure(simulation(("lucky", 0.95), ("large", 0.90), ("small", 0.7)), truth)
    assert lucky.steps_by_budget[-1] is None  # what looked best is not the best
    assert lucky.regret[-1] == pytest.approx(0.10)
    honest = measure(simulation(("small", 0.7), ("tiny", 0.6), ("large", 0.91)), truth)
    assert honest.steps_by_budget == (200.0, 100.0, 100.0, 100.0, 100.0, 300.0)
    assert honest.steps_to_target == 300.0
    assert honest.seconds_to_target == 30.0
    assert honest.regret == (0.0,) * 6


def test_what_is_within_the_tolerance_is_there(truth: Truth) -> None:
    assert truth.tolerance == TOLERANCE
    near = truth.knowing({"near": 0.896}, {"near": COSTS["large"]})
    assert measure(simulation(("near", 0.89)), near).steps_by_budget[-1] == 100.0
    far = truth.knowing({"far": 0.894}, {"far": COSTS["large"]})
    assert measure(simulation(("far", 0.89)), far).steps_by_budget[-1] is None


def test_the_tolerance_of_a_loss_is_part_of_the_way_to_the_best() -> None:
    scale = replace(SCALE, metric="loss", score_reference=-10.0, score_ideal=0.0)
    truth = Truth.of(scale, {"tiny": -2.0}, {"tiny": COSTS["tiny"]})
    assert truth.tolerance == pytest.approx(TOLERANCE * 8.0)


def test_volume_recall_and_distance_of_all_and_of_nothing(truth: Truth) -> None:
    everything = measure(simulation(*((key, WORLD[key][0]) for key in truth.front)), truth)
    assert everything.final_hypervolume == pytest.approx(1.0)
    assert everything.front_recall == 1.0
    assert everything.igd_plus == 0.0
    assert everything.steps_to_95 is not None
    assert set(everything.other_hypervolumes) == {"median", "dear"}
    nothing = measure(simulation(), truth)
    assert (nothing.final_hypervolume, nothing.front_recall) == (0.0, 0.0)
    assert nothing.igd_plus > 0.3
    assert all(math.isnan(regret) for regret in nothing.regret)
    assert nothing.steps_to_target is None


def test_recall_takes_what_is_as_good_and_no_dearer(truth: Truth) -> None:
    assert front_recall(["waste"], truth) == 0.0
    assert front_recall(["small"], truth) == pytest.approx(1 / 4)
    assert front_recall(["broken"], truth) == 0.0
    assert igd_plus(["small"], truth) < igd_plus(["waste"], truth)
