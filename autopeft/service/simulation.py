"""A whole search in virtual time: the real driver, proposers and stoppers, and no training.

What benchmarks and tests of searches run on. The log is the one a real job leaves, save that the
time of its entries is virtual: seconds since the search began.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from autopeft.errors import InvalidJobError
from autopeft.results.memory_store import MemoryStore
from autopeft.service.driver import Driver, common_arguments
from autopeft.service.job_problems import problems_of
from autopeft.service.job_spec import JobSpec
from autopeft.service.kept_checkpoints import NamedCheckpoints
from autopeft.service.observer import Observer, SilentObserver
from autopeft.workers.executors.simulated import SimulatedExecutor, VirtualClock, World

if TYPE_CHECKING:
    from autopeft.proposers.base import CostFunction, Proposer
    from autopeft.records import Costs
    from autopeft.results.front import ObjectiveScale
    from autopeft.results.job_log import JobLog
    from autopeft.results.store import Entry
    from autopeft.search_spaces.configuration import Configuration
    from autopeft.search_spaces.space import SearchSpace
    from autopeft.stoppers.base import Stopper

#: What a moment of a trace is called at which a trial was measured.
MEASURED = "measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Something that happened to a trial.

    Attributes:
        seconds: Virtual time since the search began.
        steps: Optimiser steps trained and measured so far, over all trials.
        trial: Number of the trial.
        step: Steps of it that are done.
        what: ``measured``, or what was decided: ``complete``, ``continue``, ``pause``,
            ``promote``, ``stop``, ``infeasible``, ``diverged`` or ``failed``.
        score: Its latest score; NaN where it has none.
        reason: Of a decision, for people.
    """

    seconds: float
    steps: int
    trial: int
    step: int
    what: str
    score: float
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What a simulated search leaves behind.

    Attributes:
        log: The job's log; ``log.scale`` compares its trials.
        trace: What happened, in order.
        seconds: Virtual time at the end.
        entries: The log, entry by entry.
    """

    log: JobLog
    trace: tuple[Moment, ...]
    seconds: float
    entries: tuple[Entry, ...]


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """A workbench of given parts."""

    space: SearchSpace
    scale: ObjectiveScale
    costs: CostFunction
    exact_costs: Callable[[Configuration], Costs]
    memory_bytes: int | None
    last_step: str = ""


def simulate(
    space: SearchSpace,
    scale: ObjectiveScale,
    costs: CostFunction,
    world: World,
    *,
    max_steps: int,
    proposer: str | Proposer = "mobo",
    stopper: str | Stopper = "extrapolate",
    num_workers: int = 1,
    trials: int | None = None,
    steps: int | None = None,
    seconds: float | None = None,
    end_early: bool = True,
    seed: int = 0,
    max_retries: int = 2,
    failure_probability: float = 0.0,
    straggler_probability: float = 0.0,
    straggler_factor: float = 4.0,
    exact_costs: Callable[[Configuration], Costs] | None = None,
    memory_bytes: int | None = None,
    observer: Observer | None = None,
    store: MemoryStore | None = None,
) -> Simulation:
    """Search to the end of a budget; the same arguments give the same log.

    Args:
        space: Where to search.
        scale: How the objectives compare.
        costs: Costs of many configurations.
        world: What training would bring.
        max_steps: Optimiser steps of a trial trained to the end.
        proposer: Name of a proposer, or one that has seen nothing yet.
        stopper: Name of a stopper, or one.
        num_workers: Segments under way at a time.
        trials: Budget of trials; one of the three is needed, the first reached ends the search.
        steps: Budget of optimiser steps.
        seconds: Budget of virtual time; as in a real job, segments under way still end.
        end_early: Whether the search ends where the proposer expects no further improvement.
        seed: Seeds trials, proposer and stopper, failures and stragglers.
        max_retries: Further attempts at a segment whose worker died.
        failure_probability: That a segment's worker dies.
        straggler_probability: That a segment takes ``straggler_factor`` times as long.
        straggler_factor: See there.
        exact_costs: Costs of one configuration; those of ``costs`` where None.
        memory_bytes: What a trial may need on a worker; None where nothing limits it.
        observer: Told of all that happens; nobody is where None.
        store: Where the log is kept. One that holds the log of a simulation that was broken off
            goes on with it.

    Raises:
        InvalidJobError: a budget or a number is wrong.
        AutopeftError: the proposer or the stopper is unknown.
    """
    limits = {"trials": trials, "steps": steps, "minutes": _minutes(seconds)}
    spec = _spec_of(
        name="simulation",
        output="simulation",
        base=Path("/"),
        model={"name": space.shape.name},
        data={"name": "simulated"},
        task=space.shape.task,
        space=space.name,
        training={"steps": max_steps},
        budget={
            **{name: limit for name, limit in limits.items() if limit is not None},
            "end_early": end_early,
        },
        proposer=_name_of(proposer),
        stopper=_name_of(stopper),
        workers={"num": num_workers, "max_retries": max_retries},
        seed=seed,
    )
    parts = _Parts(
        space=space,
        scale=scale,
        costs=costs,
        exact_costs=exact_costs or (lambda configuration: costs([configuration])[0]),
        memory_bytes=memory_bytes,
    )
    store = MemoryStore() if store is None else store
    known = list(store.read())
    clock = VirtualClock(known[-1].time if known else 0.0)
    store.clock = clock.now
    run = f"simulation-{len(known)}"
    store.begin_run(run)
    store.append(run, "job", {"spec": spec.to_json(), "versions": {}}, unique="job")
    found = {
        "shape": space.shape.to_json(),
        "task": space.shape.task,
        "metric": scale.metric,
        "scale": scale.to_json(),
    }
    store.append(run, "prepared", found, unique="prepared")
    executor = SimulatedExecutor(
        world,
        num_workers,
        clock,
        seed=seed,
        failure_probability=failure_probability,
        straggler_probability=straggler_probability,
        straggler_factor=straggler_factor,
    )
    with executor:
        driver = Driver(
            spec,
            NamedCheckpoints(),
            store,
            run,
            SilentObserver() if observer is None else observer,
            parts,
            executor,
            clock.now(),
            (_made_proposer(proposer, spec, parts), _made_stopper(stopper, spec, parts)),
            clock=clock.now,
            poll_seconds=float("inf"),
        )
        log = driver.drive()
    entries = tuple(store.read())
    return Simulation(log=log, trace=trace_of(entries), seconds=clock.now(), entries=entries)


def trace_of(entries: Iterable[Entry]) -> tuple[Moment, ...]:
    """Return what happened to the trials of a log, in order."""
    moments: list[Moment] = []
    begun: dict[int, int] = {}
    scores: dict[int, float] = {}
    steps = 0
    for entry in entries:
        data = entry.data
        if entry.kind == "segment":
            begun[data["trial"]] = data["from_step"]
        elif entry.kind == "measurement":
            number = data["trial"]
            steps += max(0, data["step"] - begun[number])
            scores[number] = float("nan") if data["score"] is None else data["score"]
        if entry.kind in ("measurement", "decision"):
            moments.append(
                Moment(
                    seconds=entry.time,
                    steps=steps,
                    trial=data["trial"],
                    step=data["step"],
                    what=data.get("action", MEASURED),
                    score=scores.get(data["trial"], float("nan")),
                    reason=data.get("reason", ""),
                )
            )
    return tuple(moments)


def _spec_of(**values: Any) -> JobSpec:
    """Return the job that a simulation stands for.

    Raises:
        InvalidJobError: with every problem found.
    """
    try:
        return JobSpec.model_validate(values)
    except ValidationError as error:
        problems = [
            f"{'.'.join(problem.path)}: {problem.text}" for problem in problems_of(error, JobSpec)
        ]
        raise InvalidJobError("the simulation is wrong:", problems=problems) from error


def _minutes(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / 60


def _name_of(part: object) -> str:
    return part if isinstance(part, str) else type(part).__name__


def _made_proposer(proposer: str | Proposer, spec: JobSpec, parts: _Parts) -> Proposer:
    from autopeft.proposers.base import PROPOSERS

    if not isinstance(proposer, str):
        return proposer
    return PROPOSERS.get(proposer)(
        **common_arguments(spec, parts),
        memory_bytes=parts.memory_bytes,
        exact_costs=parts.exact_costs,
    )


def _made_stopper(stopper: str | Stopper, spec: JobSpec, parts: _Parts) -> Stopper:
    from autopeft.stoppers.base import STOPPERS

    if not isinstance(stopper, str):
        return stopper
    return STOPPERS.get(stopper)(**common_arguments(spec, parts))
