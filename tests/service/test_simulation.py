"""The real driver in virtual time: every proposer with every stopper, and many workers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from autopeft.errors import AutopeftError, InvalidJobError
from autopeft.proposers.base import PROPOSERS
from autopeft.proposers.random import RandomProposer
from autopeft.records import FailureKind, Trial, TrialState, TrialStatus
from autopeft.results.front import Constraint, ObjectiveScale, pareto_front
from autopeft.results.job_log import fold
from autopeft.results.memory_store import MemoryStore
from autopeft.results.store import Entry
from autopeft.service.observer import SilentObserver, wants_log
from autopeft.service.simulation import Simulation, simulate
from autopeft.stoppers.base import STOPPERS, Action, Decision, Stopper
from autopeft.workers.executors.simulated import Outcome
from tests.proposers.synthetic_job import MAX_STEPS, Landscape, default_landscape

TROUBLE = {"failure_probability": 0.1, "straggler_probability": 0.1}


class FiveRungs(Stopper):
    """Stop what scores too little for the step, at five rungs."""

    def next_rung(self, step: int) -> int:
        return next(rung for rung in (6, 12, 24, 48, MAX_STEPS) if rung > step)

    def decide(self, state: TrialState, others: Sequence[TrialState]) -> Decision:
        action = Action.STOP if state.score < 0.55 else Action.CONTINUE
        return Decision(action=action, reason="by the score alone")

    def promote(self, states: Sequence[TrialState]) -> tuple[int, str] | None:
        return None


@pytest.fixture(scope="module")
def landscape() -> Landscape:
    return default_landscape()


def run(landscape: Landscape, **options: Any) -> Simulation:
    defaults = {"max_steps": MAX_STEPS, "proposer": "random", "stopper": "none"}
    return simulate(
        landscape.space,
        landscape.scale(),
        landscape.costs,
        landscape,
        **{**defaults, **options},
    )


def five_rungs(landscape: Landscape) -> FiveRungs:
    return FiveRungs(
        landscape.space, landscape.scale(), landscape.costs, max_steps=MAX_STEPS, seed=0
    )


def told(simulation: Simulation) -> list[tuple[str, Mapping[str, Any], float]]:
    """Return a log without what differs from process to process."""
    return [(e.kind, e.data, e.time) for e in simulation.entries if e.kind != "run"]


#: Proposers that take seconds a suggestion, and packages that some need.
SLOW = ("ax", "optuna-gp")
NEEDS = {
    "ax": "ax.api.client",
    "bohb": "hpbandster.optimizers.config_generators.bohb",
    "optuna-gp": "optuna",
    "optuna-nsga2": "optuna",
    "optuna-tpe": "optuna",
}


@pytest.mark.parametrize("stopper", STOPPERS.names())
@pytest.mark.parametrize(
    "proposer",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
        for name in PROPOSERS.names()
    ],
)
def test_every_proposer_runs_with_every_stopper(
    landscape: Landscape, proposer: str, stopper: str
) -> None:
    pytest.importorskip(NEEDS.get(proposer, "numpy"), reason=f"{proposer} needs an extra")
    done = run(landscape, proposer=proposer, stopper=stopper, trials=20, num_workers=16, **TROUBLE)
    assert done.log.end_reason == "the budget of 20 trials is spent"
    assert len(done.log.states) == 20
    assert all(state.status.is_final for state in done.log.trials)
    assert any(state.num_failures for state in done.log.trials)
    # Whatever is under way is never proposed again.
    assert len({state.trial.configuration for state in done.log.trials}) == 20
    assert most_under_way(done.entries) == 16
    assert pareto_front(done.log.trials, landscape.scale())


def most_under_way(entries: Sequence[Entry]) -> int:
    """Return the largest number of segments that ran at a time."""
    running = most = 0
    for entry in entries:
        running += entry.kind == "segment"
        running -= entry.kind in ("measurement", "failure")
        most = max(most, running)
    return most


@pytest.mark.parametrize("num_workers", [1, 16])
def test_the_same_seed_gives_the_same_log(landscape: Landscape, num_workers: int) -> None:
    options = {"stopper": "halving", "trials": 16, "num_workers": num_workers, **TROUBLE}
    one, two, other = (run(landscape, seed=seed, **options) for seed in (0, 0, 1))

    assert told(one) == told(two)
    assert one.trace == two.trace
    assert told(one) != told(other)


def test_sixteen_workers_take_a_sixteenth_of_the_time(landscape: Landscape) -> None:
    alone, many = (run(landscape, trials=64, num_workers=n) for n in (1, 16))

    assert [s.trial for s in alone.log.trials] == [s.trial for s in many.log.trials]
    assert alone.log.total_steps == many.log.total_steps
    assert alone.seconds / many.seconds == pytest.approx(16, rel=0.15)


def test_a_trace_counts_time_and_steps(landscape: Landscape) -> None:
    done = run(landscape, stopper=five_rungs(landscape), trials=12, num_workers=3)
    measured = [moment for moment in done.trace if moment.what == "measured"]
    last = done.trace[-1]

    assert [m.seconds for m in done.trace] == sorted(m.seconds for m in done.trace)
    assert (last.steps, last.seconds) == (done.log.total_steps, done.seconds)
    assert len(measured) == sum(len(state.curve) for state in done.log.trials)
    counts = Counter(moment.what for moment in done.trace)
    ended = Counter(state.status for state in done.log.trials)
    assert counts["complete"] == ended[TrialStatus.COMPLETED] > 0
    assert counts["stop"] == ended[TrialStatus.STOPPED] > 0
    first = measured[0]
    assert (first.seconds, first.steps, first.step) == (6.0, 6, 6)
    assert first.score == done.log.states[first.trial].score_at(6)


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        ({"steps": 500}, "the budget of 500 steps is spent"),
        ({"seconds": 600.0}, "the budget of 10 minutes is spent"),
        ({"trials": 4, "steps": 10_000}, "the budget of 4 trials is spent"),
    ],
)
def test_budgets_end_a_search(landscape: Landscape, budget: dict[str, Any], reason: str) -> None:
    done = run(landscape, **budget)

    assert done.log.end_reason == reason
    assert 0 < done.seconds < 600 + MAX_STEPS


def test_a_search_needs_a_budget(landscape: Landscape) -> None:
    with pytest.raises(InvalidJobError, match="the simulation is wrong") as caught:
        run(landscape)
    assert "budget: names no limit" in str(caught.value)


def test_an_unknown_part_is_named(landscape: Landscape) -> None:
    with pytest.raises(AutopeftError, match="unknown stopper 'halfing'; did you mean 'halving'"):
        run(landscape, stopper="halfing", trials=1)


def test_parts_can_be_handed_in(landscape: Landscape) -> None:
    arguments = (landscape.space, landscape.scale(), landscape.costs)
    proposer = RandomProposer(*arguments, max_steps=MAX_STEPS, seed=0)
    stopper = STOPPERS.get("none")(*arguments, max_steps=MAX_STEPS, seed=0)
    handed = run(landscape, proposer=proposer, stopper=stopper, trials=8)

    assert handed.trace == run(landscape, trials=8).trace
    assert len(proposer.states) == 8


class Died(BaseException):
    """The process is gone."""


class DyingStore(MemoryStore):
    """Keep so many entries, then die right after the last of them."""

    left = 0

    def append(
        self, run: str, kind: str, data: Mapping[str, Any], *, unique: str | None = None
    ) -> Entry:
        entry = super().append(run, kind, data, unique=unique)
        self.left -= 1
        if self.left == 0:
            raise Died
        return entry


@pytest.mark.parametrize("num_appends", [2, 3, 9, 20, 47, 48, 49, 50, 51, 80])
def test_a_search_that_was_broken_off_goes_on(landscape: Landscape, num_appends: int) -> None:
    options = {"stopper": "halving", "trials": 12}
    whole = run(landscape, **options)
    store = DyingStore()
    store.left = num_appends
    with pytest.raises(Died):
        run(landscape, store=store, **options)
    resumed = run(landscape, store=store, **options)

    assert outcome(resumed) == outcome(whole)
    assert resumed.log.num_runs == 2
    assert resumed.seconds <= whole.seconds + MAX_STEPS


def outcome(simulation: Simulation) -> list[tuple[Any, ...]]:
    return [(s.trial, s.status, s.reason, s.curve) for s in simulation.log.trials]


class Narrow:
    """A world whose workers have too little memory for some, and die under others for good."""

    def __init__(self, landscape: Landscape) -> None:
        self.landscape = landscape

    def outcome(self, trial: Trial, from_step: int, to_step: int) -> Outcome:
        if trial.number % 4 == 1:
            return Outcome(
                seconds=1.0,
                failure=FailureKind.OUT_OF_MEMORY,
                message="no room",
                least_memory_bytes=2 * trial.costs.train_memory_bytes,
            )
        if trial.number % 4 == 2:
            return Outcome(seconds=1.0, failure=FailureKind.ERROR, message="no such luck")
        return self.landscape.outcome(trial, from_step, to_step)


def test_what_cannot_be_trained_is_given_up(landscape: Landscape) -> None:
    scale = landscape.scale()
    done = simulate(
        landscape.space,
        scale,
        landscape.costs,
        Narrow(landscape),
        max_steps=MAX_STEPS,
        proposer="random",
        stopper="none",
        trials=8,
        max_retries=1,
        memory_bytes=10**12,
    )
    states = done.log.states
    assert [states[n].status for n in (1, 5)] == [TrialStatus.INFEASIBLE] * 2
    assert states[1].least_memory_bytes == 2 * states[1].trial.costs.train_memory_bytes
    assert [states[n].status for n in (2, 6)] == [TrialStatus.FAILED] * 2
    assert [states[n].num_failures for n in (2, 6)] == [2, 2]


def test_constraints_hold_in_a_simulation(landscape: Landscape) -> None:
    limit = Constraint(name="num_trainable_parameters", maximum=100_000)
    scale = ObjectiveScale.from_json(landscape.scale().to_json() | {"constraints": []})
    values = {name: getattr(scale, name) for name in ObjectiveScale.__slots__}
    scale = ObjectiveScale(**{**values, "constraints": (limit,)})
    done = simulate(
        landscape.space,
        scale,
        landscape.costs,
        landscape,
        max_steps=MAX_STEPS,
        proposer="random",
        stopper="none",
        trials=12,
    )
    assert max(s.trial.costs.num_trainable_parameters for s in done.log.trials) <= 100_000
    assert done.log.limits is not None


def test_only_observers_that_look_at_the_log_are_handed_it(landscape: Landscape) -> None:
    class Looking(SilentObserver):
        num_entries = 0

        def on_log(self, log: Any, message: str | None) -> None:
            self.num_entries = log.num_entries

    looking = Looking()
    done = run(landscape, trials=3, observer=looking)

    assert wants_log(looking)
    assert not wants_log(SilentObserver())
    assert looking.num_entries == done.log.num_entries


@pytest.mark.parametrize("num_trials", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("rungs", [1, 5])
def test_many_trials(landscape: Landscape, num_trials: int, rungs: int) -> None:
    stopper = "none" if rungs == 1 else five_rungs(landscape)
    done = run(landscape, stopper=stopper, trials=num_trials, num_workers=16, **TROUBLE)
    log = done.log

    assert len({s.trial.configuration for s in log.trials}) == num_trials
    assert all(state.status.is_final for state in log.trials)
    assert (log.due, log.undecided, log.unfinished, log.failures) == ((), (), (), ())
    replayed = fold(done.entries)
    assert replayed.states.keys() == log.states.keys()
    assert all(same(replayed.states[n], log.states[n]) for n in log.states)
    assert math.isfinite(done.seconds)


def same(one: TrialState, two: TrialState) -> bool:
    return (one.trial, one.status, one.curve) == (two.trial, two.status, two.curve)
