"""The loop that ties the rooms together: propose, train a segment, record, decide.

Everything is decided from the log alone, and nothing is done before it is recorded, so a
driver killed at any instruction resumes with nothing lost and nothing run twice. What a trial
needs next follows from its last entry:

=================================== ========================================================
proposal                            submit its first segment
decision to continue or promote     submit its next segment
segment that no worker is running   lost with its driver: submit it again, no retry counted
measurement                         decide
failure                             retry, or decide: infeasible, diverged, failed
any other decision                  nothing
=================================== ========================================================
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from autopeft.naming import counted
from autopeft.records import (
    FailureKind,
    Proposal,
    Segment,
    SegmentDone,
    SegmentEvent,
    SegmentFailed,
    Trial,
    TrialState,
)
from autopeft.results import job_log
from autopeft.results.job_log import JobLog, LogFolder
from autopeft.results.limits import left_out_text, limit_text
from autopeft.results.live_front import LiveFront
from autopeft.results.memory_limit import WORKER_MEMORY
from autopeft.results.store import Store
from autopeft.service.job_spec import JobSpec
from autopeft.service.kept_checkpoints import Checkpoints
from autopeft.service.limits import find_limits
from autopeft.service.observer import Observer, wants_log
from autopeft.service.quote import quote, rungs_of
from autopeft.service.segment_costs import SegmentCosts, Timed, timings_in, timings_of
from autopeft.service.worker_time import WorkerTime

if TYPE_CHECKING:
    from autopeft.proposers.base import CostFunction, Proposer
    from autopeft.records import Costs
    from autopeft.results.front import ObjectiveScale
    from autopeft.search_spaces.configuration import Configuration
    from autopeft.search_spaces.space import SearchSpace
    from autopeft.stoppers.base import Stopper
    from autopeft.workers.executors.base import Executor

    #: What proposes and what stops.
    Parts = tuple[Proposer, Stopper]

#: How long to wait for a worker before looking at the clock again, in seconds.
POLL_SECONDS = 1.0
#: Configurations that are looked at to tell a space that is spent from one that is cut down.
NUM_LOOKED_AT = 64
#: What the reason of an early end begins with.
IMPROBABLE = "further improvement is improbable"
#: Trials that must have been measured before they tell what the job will cost.
NUM_TRIALS_TO_QUOTE = 5


class Bench(Protocol):
    """What a driver works with: a :class:`~autopeft.service.preparation.Workbench`, or less."""

    @property
    def space(self) -> SearchSpace:
        """Where to search."""

    @property
    def scale(self) -> ObjectiveScale:
        """How the objectives compare."""

    @property
    def costs(self) -> CostFunction:
        """Costs of many configurations, predicted quickly."""

    @property
    def exact_costs(self) -> Callable[[Configuration], Costs]:
        """Costs of one configuration, by exact accounting."""

    @property
    def memory_bytes(self) -> int | None:
        """What a trial may need on a worker; None where nothing limits it."""

    @property
    def last_step(self) -> str:
        """What a trial goes through after its last step, for people; "" for nothing."""


def make_parts(spec: JobSpec, workbench: Bench) -> Parts:
    """Return the proposer and the stopper that a job names."""
    from autopeft.proposers.base import PROPOSERS
    from autopeft.stoppers.base import STOPPERS

    arguments = common_arguments(spec, workbench)
    proposer = PROPOSERS.get(spec.proposer)(
        **arguments, memory_bytes=workbench.memory_bytes, exact_costs=workbench.exact_costs
    )
    return proposer, STOPPERS.get(spec.stopper)(**arguments)


def common_arguments(spec: JobSpec, workbench: Bench) -> dict[str, Any]:
    """Return what a job's proposer and its stopper are both given."""
    return {
        "space": workbench.space,
        "scale": workbench.scale,
        "costs": workbench.costs,
        "max_steps": spec.training.steps,
        "seed": spec.seed,
    }


class Driver:
    """One run of the loop.

    Args:
        spec: The job, epochs resolved to steps.
        checkpoints: Where its checkpoints are.
        store: Its log, which this run has taken over.
        run: Id of this run.
        observer: Told of all that happens.
        workbench: What was prepared.
        executor: Runs segments.
        started: When this run began, by ``clock``.
        parts: What proposes and what stops, where not what the job names.
        clock: Seconds that never go back.
        poll_seconds: How long to wait for a worker before looking at the clock again.
    """

    def __init__(
        self,
        spec: JobSpec,
        checkpoints: Checkpoints,
        store: Store,
        run: str,
        observer: Observer,
        workbench: Bench,
        executor: Executor,
        started: float,
        parts: Parts | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self.spec = spec
        self.checkpoints = checkpoints
        self.store = store
        self.run = run
        self.observer = observer
        self.workbench = workbench
        self.executor = executor
        self.started = started
        self.clock = clock
        self.poll_seconds = poll_seconds
        #: The job as it stands, live; ``log.state`` is a snapshot, which costs a copy of it.
        self.log = LogFolder()
        self.running: set[int] = set()
        self.front = LiveFront(workbench.scale)
        #: Checkpoints of live and paused trials and of front members, by trial.
        self.needed: dict[int, str] = {}
        self.is_watched = wants_log(observer)
        self.last_step = workbench.last_step
        self.proposer, self.stopper = make_parts(spec, workbench) if parts is None else parts
        for entry in store.read():
            self.log.add(entry)
        timed = None if self.log.timing is None else Timed.from_json(self.log.timing)
        known = timings_in(self.log.state, spec.training.steps)
        self.segment_costs = SegmentCosts([*(timed.timings if timed else ()), *known])
        self.worker_time = WorkerTime(
            spec,
            self.segment_costs,
            lambda: self.log.busy_seconds,
            startup_seconds=timed.startup_seconds if timed else 0.0,
            clock=clock,
        )
        self.is_quoted = False
        #: Why the latest proposal is probably not worth its training; "" where it may be.
        self.doubt = ""
        for state in self.log.trials:
            self._note_checkpoint(state)
            self.proposer.observe(state)

    def drive(self) -> JobLog:
        """Work until nothing is left to do within the budget."""
        self.checkpoints.remove_leftovers()
        self._collect_garbage()
        self._charge_lost()
        self._quote(needed=0)
        self._record_limits()
        while True:
            self._fill()
            if not self.running:
                break
            event = self.executor.next_event(self.worker_time.wait_seconds(self.poll_seconds))
            if event is not None:
                self._handle(event)
            elif self.worker_time.is_over:
                self._cut_off()
                break
        self._record("end", {"reason": self._end_reason()})
        self._collect_garbage()
        return self.log.state

    # What to do next -----------------------------------------------------------------

    def _fill(self) -> None:
        """Give every free worker a segment, as far as the budget goes."""
        self._settle()
        self.worker_time.has_refused = False
        while len(self.running) < self.executor.num_workers and self._may_spend():
            segment = self._owed_segment() or self._promoted_segment() or self._new_segment()
            if segment is None:
                return
            self._submit(segment)

    def _settle(self) -> None:
        """Decide about every trial whose last entry calls for a decision."""
        for number in self.log.undecided:
            self._decide(self.log.states[number])
        for failed in self.log.failures:
            if not self._may_retry(failed):
                self._give_up(failed)
        for number in self.log.due:
            self._hold_back(self.log.states[number])

    def _hold_back(self, state: TrialState) -> None:
        """End a trial that exact accounting expects not to fit, before it is sent anywhere."""
        memory, trial = self.proposer.memory, state.trial
        if memory is None or state.curve or memory.fits(trial.configuration, trial.costs):
            return
        expected = memory.expected_bytes(trial.configuration, trial.costs)
        reason = (
            f"not sent: it needs about {expected / 2**20:,.0f} MiB, there are "
            f"{memory.limit_bytes / 2**20:,.0f} MiB"
        )
        self._record_decision(state, "infeasible", reason)

    def _owed_segment(self) -> Segment | None:
        """Return the segment of a trial that goes on without further ado."""
        for failed in self.log.failures:
            state = self.log.states[failed.segment.trial.number]
            segment = self._next_segment(state, attempt=failed.segment.attempt + 1)
            if self.worker_time.fits(segment):
                return segment
        for lost in self.log.unfinished:
            if lost.trial.number not in self.running:
                state = self.log.states[lost.trial.number]
                segment = self._next_segment(state, attempt=lost.attempt)
                if self.worker_time.fits(segment):
                    return segment
        for number in self.log.due:
            segment = self._next_segment(self.log.states[number])
            if self.worker_time.fits(segment):
                return segment
        return None

    def _promoted_segment(self) -> Segment | None:
        """Return the segment of a paused trial that now deserves one."""
        if not self.log.has_paused:
            return None
        promoted = self.stopper.promote(self.log.trials)
        if promoted is None:
            return None
        number, reason = promoted
        state = self.log.states[number]
        if not self.worker_time.fits(self._next_segment(state)):
            return None
        self._record_decision(state, "promote", reason)
        return self._next_segment(self.log.states[number])

    def _new_segment(self) -> Segment | None:
        """Propose configurations until one fits, and return its first segment."""
        while True:
            number = len(self.log.states)
            if self.spec.budget.trials is not None and number >= self.spec.budget.trials:
                return None
            proposals = self.proposer.propose(1)
            self.doubt = proposals[0].doubt if proposals else ""
            if self.spec.budget.end_early and self.doubt:
                return None
            if not proposals or not self._take(proposals[0]):
                return None
            self._hold_back(self.log.states[number])
            if self.log.is_due(number):
                return self._next_segment(self.log.states[number])

    def _take(self, proposal: Proposal) -> bool:
        """Record a proposal as a trial; False where the budget has no room for a segment."""
        number = len(self.log.states)
        trial = Trial(
            number=number,
            configuration=proposal.configuration,
            seed=self.spec.seed if proposal.seed is None else proposal.seed,
            origin=proposal.origin,
            costs=self.workbench.exact_costs(proposal.configuration),
            turned_down=proposal.turned_down,
        )
        first = Segment(trial=trial, from_step=0, to_step=self.stopper.next_rung(0))
        if not self.worker_time.fits(first):
            return False
        of = "" if self.spec.budget.trials is None else f" of {self.spec.budget.trials}"
        self._record(
            "proposal",
            job_log.proposal_data(trial),
            message=f"trial {number}{of} ({trial.origin}): {trial.configuration}",
        )
        return True

    def _next_segment(self, state: TrialState, attempt: int = 0) -> Segment:
        checkpoint = state.checkpoint
        step = state.step
        if checkpoint is not None and not self.checkpoints.exists(checkpoint):
            # Losing a checkpoint costs time, never the trial: train from the start again.
            checkpoint, step = None, 0
        return Segment(
            trial=state.trial,
            from_step=step,
            to_step=self.stopper.next_rung(state.step),
            checkpoint=checkpoint,
            attempt=attempt,
        )

    # What happened ---------------------------------------------------------------------

    def _submit(self, segment: Segment) -> None:
        message = None
        if segment.to_step == self.spec.training.steps and self.last_step:
            # A worker tells nothing while it works, so what takes long is told before it does.
            message = (
                f"trial {segment.trial.number}: trains to step {segment.to_step}, then "
                f"{self.last_step}"
            )
        self._record("segment", job_log.segment_data(segment), message=message)
        self.worker_time.begin(segment)
        self.executor.submit(segment)
        self.running.add(segment.trial.number)

    def _handle(self, event: SegmentEvent) -> None:
        """Record an event, then decide."""
        number = event.segment.trial.number
        self.running.discard(number)
        expected = self.worker_time.expected(event.segment)
        busy = {"busy_seconds": self.worker_time.end(number)}
        match event:
            case SegmentDone(measurement=measurement):
                self._record("measurement", {**job_log.measurement_data(measurement), **busy})
                self._learn_time(number, expected)
            case SegmentFailed():
                self._record(
                    "failure",
                    {**job_log.failure_data(event), **busy},
                    message=f"trial {number}: {event.kind.value}: {event.message}",
                )
        self._record("spent", {"seconds": self.clock() - self.started})
        self._settle()
        self._quote(needed=NUM_TRIALS_TO_QUOTE)
        self._collect_garbage()

    def _decide(self, state: TrialState) -> None:
        """Judge a trial that was just measured."""
        if state.step >= self.spec.training.steps:
            broken = self.workbench.scale.broken_constraints(state)
            kept_off = f", but not on the front: {'; '.join(broken)}" if broken else ""
            self._record_decision(state, "complete", f"trained to the end{kept_off}")
            return
        decision = self.stopper.decide(state, self.log.trials.without(state.trial.number))
        self._record_decision(state, decision.action.value, decision.reason)

    def _give_up(self, failed: SegmentFailed) -> None:
        """End a trial that failed for good."""
        action = {
            FailureKind.OUT_OF_MEMORY: "infeasible",
            FailureKind.DIVERGED: "diverged",
        }.get(failed.kind, "failed")
        state = self.log.states[failed.segment.trial.number]
        self._record_decision(state, action, failed.message)

    def _may_retry(self, failed: SegmentFailed) -> bool:
        if failed.kind in (FailureKind.OUT_OF_MEMORY, FailureKind.DIVERGED):
            return False
        return failed.segment.attempt < self.spec.workers.max_retries

    # The log -----------------------------------------------------------------------------

    def _record_decision(self, state: TrialState, action: str, reason: str) -> None:
        number = state.trial.number
        data = job_log.decision_data(number, state.step, action, reason)
        self._record("decision", data, message=f"trial {number}: {action}: {reason}")

    def _record(self, kind: str, data: dict[str, Any], *, message: str | None = None) -> None:
        """Append to the store, then let every reader of the log know."""
        entry = self.store.append(self.run, kind, data, unique=job_log.unique_fact(kind, data))
        self.log.add(entry)
        number = data.get("trial")
        if number is not None:
            state = self.log.states[number]
            self._note_checkpoint(state)
            self.proposer.observe(state)
        self._tell(message)

    def _tell(self, message: str | None) -> None:
        """Show the observer the job as it stands, if it looks at it at all."""
        if self.is_watched:
            self.observer.on_log(self.log.state, message)

    # Budget and room on disk -----------------------------------------------------------

    def _may_spend(self) -> bool:
        """Whether the budget of steps and minutes allows another segment."""
        return self._exhausted() is None

    def _exhausted(self) -> str | None:
        budget = self.spec.budget
        if budget.steps is not None and self.log.total_steps >= budget.steps:
            return f"the budget of {counted(budget.steps, 'step')} is spent"
        # Earlier runs' last `spent` entries are in the log; this run's is measured live.
        seconds = self.log.spent_seconds_before(self.run) + self.clock() - self.started
        if budget.minutes is not None and seconds >= 60 * budget.minutes:
            return f"the budget of {counted(budget.minutes, 'minute')} is spent"
        if self.worker_time.is_over:
            return self.worker_time.reason
        return None

    def _end_reason(self) -> str:
        exhausted = self._exhausted()
        if exhausted is not None:
            return exhausted
        if self.worker_time.has_refused:
            return self.worker_time.reason
        trials = self.spec.budget.trials
        if trials is not None and len(self.log.states) >= trials:
            return f"the budget of {counted(trials, 'trial')} is spent"
        if self.spec.budget.end_early and self.doubt:
            return f"{IMPROBABLE}: {self.doubt}"
        if not self._all_are_allowed():
            limits = [str(each) for each in self.workbench.scale.constraints]
            known = self.log.limits or ()
            limits += [limit_text(each) for each in known if each["name"] == WORKER_MEMORY]
            return f"no further configuration keeps {' and '.join(limits)}"
        return "every configuration of the space has been tried"

    def _all_are_allowed(self) -> bool:
        """Tell whether constraints leave the space whole, as far as a sample shows."""
        scale, space = self.workbench.scale, self.workbench.space
        if not scale.constraints and self.proposer.memory is None:
            return True
        known = [proposal.configuration for proposal in space.portfolio()]
        known += space.sobol(NUM_LOOKED_AT, seed=self.spec.seed)
        allowed = self.proposer.log_allowed(known, self.workbench.costs(known))
        return all(math.isfinite(each) for each in allowed)

    def _record_limits(self) -> None:
        """Record once what each limit leaves out of the space, and tell it."""
        if self.log.limits is not None or self.log.states:
            return
        workbench = self.workbench
        found = find_limits(
            workbench.space,
            workbench.costs,
            workbench.scale.constraints,
            workbench.memory_bytes,
            seed=self.spec.seed,
        )
        if found:
            texts = [f"{limit_text(each)}: {left_out_text(each)}" for each in found]
            self._record("limits", {"limits": found}, message="; ".join(texts))

    def _learn_time(self, number: int, expected: float | None) -> None:
        """Expect of segments to come what the latest one of a trial took."""
        for timing in timings_of(self.log.states[number], self.spec.training.steps)[-1:]:
            self.segment_costs.add(timing, expected)

    def _charge_lost(self) -> None:
        """Count the time of segments that were lost with their driver, each once."""
        if self.spec.budget.gpu_hours is None:
            return
        for lost in self.log.unfinished:
            number = lost.trial.number
            if number not in self.log.charged:
                seconds = self.worker_time.lost_seconds(lost)
                self._record("busy", {"trial": number, "busy_seconds": seconds})

    def _cut_off(self) -> None:
        """Give up the segments under way; they are trained again where the cap is raised."""
        for number in sorted(self.running):
            seconds = self.worker_time.end(number)
            self._record(
                "busy",
                {"trial": number, "busy_seconds": seconds},
                message=f"trial {number}: cut off, the cap on worker time is reached",
            )
        self.running.clear()

    def _quote(self, *, needed: int) -> None:
        """Say once what the job will cost, as soon as enough is known."""
        if self.is_quoted or not self.is_watched or not len(self.segment_costs):
            return
        num_measured = sum(bool(state.curve) for state in self.log.trials)
        if num_measured < needed:
            return
        if self.log.timing is None and num_measured < NUM_TRIALS_TO_QUOTE:
            return
        self.is_quoted = True
        timed = self.log.timing
        told = quote(
            self.spec,
            rungs_of(self.stopper),
            self.segment_costs.timings,
            log=self.log.state,
            # The workers of this run start anew, unless they have worked already.
            startup_seconds=Timed.from_json(timed).startup_seconds if timed and not needed else 0.0,
        )
        self._tell(f"this search: {told}")

    def _note_checkpoint(self, state: TrialState) -> None:
        """Note whether a trial's checkpoint is needed: of a live, a paused or a front member."""
        for dropped in self.front.add(state):
            del self.needed[dropped.trial.number]
        number, checkpoint = state.trial.number, state.checkpoint
        if checkpoint is not None and (not state.status.is_final or state in self.front):
            self.needed[number] = checkpoint
        else:
            self.needed.pop(number, None)

    def _collect_garbage(self) -> None:
        """Remove checkpoints that no live or paused trial and no front member needs."""
        self.checkpoints.keep_only(self.needed.values(), self.running)
