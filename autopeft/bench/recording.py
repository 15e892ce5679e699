"""Record a table: train configurations to the end, measure them at every rung, repeat some.

A recording is a job like any other, with a proposer that asks for configurations whatever they
score and a stopper that stops nothing; so it can be interrupted and goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopeft.bench.table import rungs_of
from autopeft.errors import InvalidJobError
from autopeft.proposers.base import Proposer
from autopeft.records import Proposal, TrialState, TrialStatus
from autopeft.results.job_log import JobLog
from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.space import lora_sweep_space
from autopeft.service.driver import common_arguments
from autopeft.service.job_spec import JobSpec
from autopeft.service.jobs import JobFolder, open_job
from autopeft.service.observer import Observer
from autopeft.service.running import resume_job, run_job
from autopeft.stoppers.base import Action, Decision, Stopper

if TYPE_CHECKING:
    from autopeft.service.driver import Parts
    from autopeft.service.preparation import Workbench

#: Sections of a job that its trials do not depend on.
NOT_OF_THE_TRIALS = ("name", "output", "base", "budget", "proposer", "stopper", "workers")
#: Random configurations trained from two seeds, which tell whether a table is worth recording.
NUM_PILOT = 20
#: Members of the LoRA sweep in every table.
NUM_SWEEP = 16
#: Further seeds of each of the best configurations.
NUM_FURTHER_SEEDS = 2


class Recorder(Proposer):
    """Ask for what a table holds, in this order.

    1. The pilot: random configurations, then the same ones from a second seed.
    2. Given configurations, such as those that optimisers asked for on a surrogate.
    3. The space's portfolio and a sweep of plain LoRA, which every comparison needs.
    4. Random configurations up to the number asked for.
    5. The best configurations so far, from further seeds, so that the noise near the front is
       known.

    Random configurations are the members of the Sobol sequence that ``random`` proposes.

    Args:
        num_configurations: Distinct configurations in the table.
        num_repeated: Configurations trained from more than one seed, the pilot's included.
        given: Configurations that the table is to hold besides.
        arguments, options: As for :class:`~autopeft.proposers.base.Proposer`.
    """

    def __init__(
        self,
        *arguments: Any,
        num_configurations: int,
        num_repeated: int,
        given: Sequence[Configuration] = (),
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.num_configurations = num_configurations
        self.num_pilot = min(NUM_PILOT, num_configurations, num_repeated)
        self.num_best = min(num_repeated, num_configurations) - self.num_pilot
        self.given = tuple(given)

    def propose(self, n: int) -> list[Proposal]:
        """Return the next ``n`` trials of the table that are not known."""
        known: set[tuple[str, int | None]] = {
            (s.trial.configuration.key, s.trial.seed) for s in self.states.values()
        }
        proposals: list[Proposal] = []
        for proposal in self._wanted():
            if len(proposals) == n:
                break
            what = (proposal.configuration.key, proposal.seed)
            if what not in known:
                known.add(what)
                proposals.append(proposal)
        return proposals

    def _wanted(self) -> Iterator[Proposal]:
        pilot = self._random[: self.num_pilot]
        for seed in (self.seed, self.seed + 1):
            yield from (Proposal(configuration=each, origin="random", seed=seed) for each in pilot)
        seen = {each.key for each in pilot}
        for configuration, origin in self._others():
            if len(seen) == self.num_configurations:
                break
            if configuration.key not in seen:
                seen.add(configuration.key)
                yield Proposal(configuration=configuration, origin=origin, seed=self.seed)
        for state in self._best({each.key for each in pilot}):
            for k in range(NUM_FURTHER_SEEDS):
                yield Proposal(
                    configuration=state.trial.configuration,
                    origin=state.trial.origin,
                    seed=self.seed + 1 + k,
                )

    def _others(self) -> Iterator[tuple[Configuration, str]]:
        yield from ((configuration, "given") for configuration in self.given)
        yield from ((each.configuration, each.origin) for each in self.space.portfolio())
        sweep = lora_sweep_space(self.space.shape, self.space.training.default)
        yield from ((each, "lora-sweep") for each in sweep.sobol(NUM_SWEEP, seed=self.seed))
        yield from ((each, "random") for each in self._random)

    @cached_property
    def _random(self) -> list[Configuration]:
        """Enough random configurations to fill the table with, as the space has them."""
        points = self.space.sobol(2 * self.num_configurations + NUM_PILOT, seed=self.seed)
        return list(dict.fromkeys(points))[: self.num_configurations + self.num_pilot]

    def _best(self, excluded: set[str]) -> list[TrialState]:
        """Return the completed first runs with the best final scores."""
        done = [
            state
            for state in self.states.values()
            if state.status is TrialStatus.COMPLETED
            and state.trial.seed == self.seed
            and state.trial.configuration.key not in excluded
        ]
        return sorted(done, key=lambda s: (-s.score, s.trial.number))[: self.num_best]


class EveryRung(Stopper):
    """Stop nothing, and measure at every rung of a table."""

    def next_rung(self, step: int) -> int:
        """Return the first rung beyond ``step``."""
        return next(rung for rung in rungs_of(self.max_steps) if rung > step)

    def decide(self, state: TrialState, others: Sequence[TrialState]) -> Decision:
        """Continue, whatever the score."""
        return Decision(action=Action.CONTINUE, reason="a table holds whole curves")

    def promote(self, states: Sequence[TrialState]) -> tuple[int, str] | None:
        """Return None: nothing is ever paused."""
        return None


def record_table(
    spec: JobSpec,
    folder: Path,
    *,
    num_configurations: int,
    num_repeated: int,
    observer: Observer,
    given: Sequence[Configuration] = (),
) -> JobLog:
    """Record a table, or go on with one; with a larger number than before it grows.

    Args:
        spec: The job whose trials are recorded; its budget, proposer and stopper do not count.
        folder: Where the recording lies.
        num_configurations: Distinct configurations, at least 2.
        num_repeated: How many of them are trained from further seeds, half of them random, the
            other half the best.
        observer: Told of all that happens.
        given: Configurations that the table is to hold besides random ones.

    Raises:
        AutopeftError: data, model or space do not fit the job, or the folder holds another one.
    """

    def make(spec: JobSpec, workbench: Workbench) -> Parts:
        arguments = common_arguments(spec, workbench)
        recorder = Recorder(
            num_configurations=num_configurations,
            num_repeated=num_repeated,
            given=given,
            **arguments,
        )
        return recorder, EveryRung(**arguments)

    num_trials = num_trials_of(num_configurations, num_repeated)
    if not JobFolder(folder).log.exists():
        spec = spec.with_budget(trials=num_trials)
        return run_job(spec, folder, observer=observer, make_parts=make)
    log = open_job(folder)
    _require_same(spec, log, folder)
    known = log.budget.get("trials") or (log.spec or {}).get("budget", {}).get("trials") or 0
    budget = {"trials": float(num_trials)} if num_trials > known else None
    return resume_job(folder, observer=observer, budget=budget, make_parts=make)


def num_trials_of(num_configurations: int, num_repeated: int) -> int:
    """Return the number of trials in a table."""
    num_pilot = min(NUM_PILOT, num_configurations, num_repeated)
    num_best = min(num_repeated, num_configurations) - num_pilot
    return num_configurations + num_pilot + NUM_FURTHER_SEEDS * num_best


def _require_same(spec: JobSpec, log: JobLog, folder: Path) -> None:
    """Refuse to mix the trials of two jobs in one table."""
    recorded, given = dict(log.spec or {}), spec.to_json()
    for values in (recorded, given):
        for name in NOT_OF_THE_TRIALS:
            values.pop(name, None)
    different = sorted(key for key in given if given[key] != recorded.get(key))
    if recorded and different:
        raise InvalidJobError(
            f"the recording in {str(folder)!r} was begun with other settings: "
            f"{', '.join(different)}",
            hint="record in another folder with --output, or give the settings it was begun with",
        )
