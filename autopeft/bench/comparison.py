"""Compare optimisers on recorded tables: who reaches what is worth reaching at what cost.

An arm is a proposer with a stopper, written ``mobo+halving``. Every arm searches every table from
the same seeds; each search is one line of a file, written when it is done and not run again.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from autopeft.bench.lookup import LookupSpace, LookupWorld
from autopeft.bench.measures import Truth, measure
from autopeft.bench.surrogate import SurrogateWorld
from autopeft.bench.table import Table, read_table
from autopeft.errors import AutopeftError, InvalidJobError
from autopeft.proposers.base import PROPOSERS, Proposer
from autopeft.proposers.lora_sweep import LoraSweepProposer
from autopeft.records import Costs, Proposal
from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.space import SearchSpace
from autopeft.service.simulation import simulate
from autopeft.stoppers.base import STOPPERS
from autopeft.workers.executors.simulated import World

#: What a search is compared by in a table of results, in this order.
HEADLINES = ("steps_to_target", "steps_to_95", "final_hypervolume")
#: Draws of a bootstrap.
NUM_BOOTSTRAP = 2000
#: Numbers of observed trials at which the time of a suggestion is told.
OBSERVED = (10, 20, 50, 100, 200, 500, 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A proposer with a stopper."""

    proposer: str
    stopper: str

    @classmethod
    def parse(cls, text: str) -> Arm:
        """Read ``proposer+stopper``.

        Raises:
            InvalidJobError: there is no such proposer or stopper.
        """
        proposer, plus, stopper = text.partition("+")
        if not plus:
            raise InvalidJobError(
                f"{text!r} is no arm: expected a proposer and a stopper, such as mobo+halving",
                hint=f"proposers: {', '.join(PROPOSERS.names())}; "
                f"stoppers: {', '.join(STOPPERS.names())}",
            )
        for name, registry in ((proposer, PROPOSERS), (stopper, STOPPERS)):
            registry.get(name)
        return cls(proposer=proposer, stopper=stopper)

    def __str__(self) -> str:
        """Write it as it is read."""
        return f"{self.proposer}+{self.stopper}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """One search to run.

    Attributes:
        table: File of the table.
        world: ``lookup`` or ``surrogate``.
        arm: Who searches.
        seed: From which seed.
        budget: Steps to spend, in trainings to the end.
        workers: Trials at a time.
    """

    table: Path
    world: str
    arm: Arm
    seed: int
    budget: int
    workers: int = 1

    @property
    def key(self) -> str:
        """What tells it from others on the same table, whatever folder that lies in."""
        return (
            f"{self.table.stem}/{self.world}/{self.arm}/seed {self.seed}/budget {self.budget}"
            f"/workers {self.workers}"
        )


class TableWorld(World, Protocol):
    """A world that also knows costs and true scores."""

    def costs(self, configurations: Sequence[Configuration]) -> list[Costs]:
        """Return the costs of configurations."""

    def true_scores(self, configurations: Sequence[Configuration]) -> dict[str, float]:
        """Return mean final scores over seeds, by key; NaN where training fails."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A table made ready to be searched."""

    table: Table
    world: TableWorld
    space: SearchSpace
    truth: Truth


@lru_cache(maxsize=4)
def open_bench(path: Path, world: str) -> Bench:
    """Read a table and find out what there is to find in it.

    Raises:
        AutopeftError: it is no table, or holds too little.
    """
    table = read_table(path)
    rows = LookupWorld(table=table)
    if world == "surrogate":
        foretold = SurrogateWorld(table, rows)
        return Bench(table=table, world=foretold, space=table.space, truth=foretold.truth())
    if len(rows.curves) < 2:
        raise AutopeftError(
            f"table {str(path)!r} holds {len(rows.curves)} trained configurations",
            hint="record more with `autopeft bench table`; 200 tell optimisers apart",
        )
    members = rows.configurations()
    costs = {each.key: cost for each, cost in zip(members, rows.costs(members), strict=True)}
    truth = Truth.of(table.scale, rows.true_scores(members), costs, num_seeds=rows.num_seeds())
    return Bench(table=table, world=rows, space=rows.space(), truth=truth)


class Stopwatch:
    """Times the suggestions of a proposer, in seconds of the processor.

    Args:
        proposer: Whose :meth:`propose` is timed from now on.
    """

    def __init__(self, proposer: Proposer) -> None:
        self.seconds: dict[int, float] = {}
        plain = proposer.propose

        def propose(n: int) -> list[Proposal]:
            start = time.process_time()
            found = plain(n)
            self.seconds[len(proposer.states)] = time.process_time() - start
            return found

        proposer.propose = propose  # type: ignore[method-assign]

    def at(self, numbers: Iterable[int] = OBSERVED) -> dict[str, float]:
        """Return the mean seconds near some numbers of observed trials."""
        found = {}
        for number in numbers:
            near = [s for n, s in self.seconds.items() if 0.9 * number <= n <= 1.1 * number]
            if near:
                found[str(number)] = float(np.mean(near))
        return found


def run_search(search: Search) -> dict[str, Any]:
    """Run one search and return its line.

    A proposer whose package is missing gives a line that says so.
    """
    bench = open_bench(search.table, search.world)
    line: dict[str, Any] = {
        "key": search.key,
        "table": search.table.stem,
        "world": search.world,
        "arm": str(search.arm),
        "seed": search.seed,
        "budget": search.budget * bench.table.max_steps,
        "workers": search.workers,
    }
    scale, space = bench.truth.scale, bench.space
    try:
        proposer = PROPOSERS.get(search.arm.proposer)(
            space, scale, bench.world.costs, max_steps=bench.table.max_steps, seed=search.seed
        )
    except AutopeftError as error:
        return {**line, "skipped": str(error)}
    if isinstance(proposer, LoraSweepProposer) and search.world == "lookup":
        assert isinstance(bench.world, LookupWorld)
        sweep = bench.world.configurations(origin="lora-sweep")
        if not sweep:
            return {**line, "skipped": "the table holds no sweep of LoRA"}
        proposer.sweep = LookupSpace(proposer.sweep, sweep)
    stopwatch = Stopwatch(proposer)
    started = time.process_time()
    try:
        done = simulate(
            space,
            scale,
            bench.world.costs,
            bench.world,
            max_steps=bench.table.max_steps,
            proposer=proposer,
            stopper=search.arm.stopper,
            num_workers=search.workers,
            steps=search.budget * bench.table.max_steps,
            seed=search.seed,
            end_early=False,
        )
    except AutopeftError as error:
        return {**line, "skipped": str(error)}
    tried = [state.trial.configuration for state in done.log.trials]
    costs = {each.key: cost for each, cost in zip(tried, bench.world.costs(tried), strict=True)}
    truth = bench.truth.knowing(bench.world.true_scores(tried), costs)
    measured = asdict(measure(done, truth))
    return {
        **line,
        **measured,
        "seconds_per_suggestion": stopwatch.at(),
        "cpu_seconds": time.process_time() - started,
    }


def run_searches(
    searches: Sequence[Search], path: Path, *, jobs: int = 1
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Run the searches that are not in a file yet, add each when done, and tell how many are.

    Args:
        searches: What to run.
        path: The file of lines, see :func:`read_lines`.
        jobs: Processes to use.
    """
    known = {line["key"] for line in read_lines(path)}
    waiting = [search for search in searches if search.key not in known]
    done = len(searches) - len(waiting)
    path.parent.mkdir(parents=True, exist_ok=True)
    is_cut = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        if is_cut:
            file.write("\n")
        for line in _results(waiting, jobs):
            file.write(json.dumps(_rounded(line), sort_keys=True) + "\n")
            file.flush()
            done += 1
            yield done, line


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of finished searches; one that was cut short is passed over."""
    if not path.exists():
        return []
    found = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(text))
        except ValueError:
            continue
    return found


def _results(searches: Sequence[Search], jobs: int) -> Iterator[dict[str, Any]]:
    if jobs <= 1 or len(searches) <= 1:
        yield from map(run_search, searches)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(run_search, search) for search in searches]):
            yield future.result()


def summarise(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return results by table, world and arm, each over the seeds that were run.

    What was not reached counts as the budget; ``reached`` is the part of the seeds that did.
    """
    found: dict[str, Any] = {}
    for line in lines:
        place = found.setdefault(line["table"], {}).setdefault(line["world"], {})
        place.setdefault(line["arm"], []).append(line)
    for worlds in found.values():
        for world, arms in worlds.items():
            worlds[world] = {arm: _summary(each) for arm, each in sorted(arms.items())}
    return found


def _summary(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    skipped = [line["skipped"] for line in lines if "skipped" in line]
    lines = [line for line in lines if "skipped" not in line]
    if not lines:
        return {"skipped": skipped[0]}
    summary: dict[str, Any] = {"num_seeds": len(lines), "budget_steps": lines[0]["budget"]}
    for name in ("steps_to_target", "steps_to_95"):
        summary[name] = _quartiles(
            [line["budget"] if line[name] is None else line[name] for line in lines],
            reached=float(np.mean([line[name] is not None for line in lines])),
        )
    summary["seconds_to_target"] = _quartiles(
        [
            line["seconds"] if line["seconds_to_target"] is None else line["seconds_to_target"]
            for line in lines
        ],
        reached=float(np.mean([line["seconds_to_target"] is not None for line in lines])),
    )
    summary["final_hypervolume"] = _quartiles(
        [line["final_hypervolume"] for line in lines],
        reached=float(np.mean([line["final_hypervolume"] >= 0.95 for line in lines])),
    )
    for name in ("igd_plus", "front_recall"):
        summary[name] = _quartiles([line[name] for line in lines])
    summary["regret"] = [
        _quartiles([line["regret"][k] for line in lines if _is_number(line["regret"][k])])
        for k in range(len(lines[0]["regret"]))
    ]
    summary["steps_by_budget"] = [
        _quartiles(
            [
                line["budget"] if each is None else each
                for line in lines
                for each in [line["steps_by_budget"][k]]
            ]
        )
        for k in range(len(lines[0]["steps_by_budget"]))
    ]
    summary["other_hypervolumes"] = {
        name: _quartiles([line["other_hypervolumes"][name] for line in lines])
        for name in lines[0]["other_hypervolumes"]
    }
    timed: dict[str, list[float]] = {}
    for line in lines:
        for number, seconds in line["seconds_per_suggestion"].items():
            timed.setdefault(number, []).append(seconds)
    summary["seconds_per_suggestion"] = {
        number: float(np.median(each)) for number, each in sorted(timed.items(), key=_number)
    }
    return summary


def ratios(
    lines: Sequence[Mapping[str, Any]], arm: str, other: str, *, measure_name: str = HEADLINES[0]
) -> dict[str, Any] | None:
    """Return how many times as much one arm needs as another, over the seeds both were run from.

    The geometric mean of the ratios of paired seeds with a bootstrap interval of 95 %, over all
    tables of the lines; what was not reached counts as the budget, which makes a ratio of an arm
    that does reach its target to one that does not an upper bound. None without pairs.
    """
    values: dict[str, dict[tuple[Any, ...], float]] = {arm: {}, other: {}}
    for line in lines:
        if line["arm"] in values and "skipped" not in line:
            pair = (line["table"], line["world"], line["seed"], line["budget"], line["workers"])
            spent = line[measure_name]
            values[line["arm"]][pair] = float(line["budget"] if spent is None else spent)
    pairs = sorted(set(values[arm]) & set(values[other]), key=str)
    if not pairs:
        return None
    logs = np.log([values[arm][pair] / values[other][pair] for pair in pairs])
    draws = np.random.default_rng(0).integers(len(logs), size=(NUM_BOOTSTRAP, len(logs)))
    low, high = np.quantile(logs[draws].mean(axis=1), [0.025, 0.975])
    return {
        "ratio": float(np.exp(logs.mean())),
        "low": float(np.exp(low)),
        "high": float(np.exp(high)),
        "pairs": len(pairs),
    }


def _quartiles(values: Sequence[float], *, reached: float | None = None) -> dict[str, float]:
    if not values:
        return {"median": math.nan, "q25": math.nan, "q75": math.nan}
    low, middle, high = (float(q) for q in np.quantile(values, [0.25, 0.5, 0.75]))
    found = {"median": middle, "q25": low, "q75": high}
    return found if reached is None else {**found, "reached": reached}


def _is_number(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _number(item: tuple[str, Any]) -> int:
    return int(item[0])


def _rounded(value: Any) -> Any:
    """Return a value of JSON with six digits, NaN as null."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return value
