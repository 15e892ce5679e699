"""The log of a job, written and read: one module, so that both sides agree.

A driver appends entries whose data the ``*_data`` functions build; :func:`fold` turns a log
back into a :class:`JobLog`. The driver folds what it appends as it goes, so that what it
knows while running and what it knows after a crash are the same by construction.

=========== ========================================================= =================
kind        data                                                      true once, as
=========== ========================================================= =================
job         spec, versions                                            job
run         pid, host
prepared    shape, task, metric, scale, fingerprint, ...              prepared
budget      limits that replace those of the job, by name
proposal    trial, configuration, seed, origin, costs, turned_down    proposal/n
segment     trial, from_step, to_step, checkpoint, attempt
measurement trial, step, score, metrics, seconds, memory_bytes,       measurement/n/step
            memory, checkpoint, cpu_seconds
failure     trial, from_step, to_step, kind, message, attempt,
            least_memory_bytes
limits      what each limit leaves out of the space                   limits
timing      what was timed before the first trial, busy_seconds       timing
busy        trial, busy_seconds: of a segment that was lost
decision    trial, step, action, reason
spent       seconds (wall clock of this run so far)
end         reason
=========== ========================================================= =================

A measurement and a failure also hold ``busy_seconds``: how long their segment kept a worker.

Kinds not listed are passed over. Floats that are not finite are null in the log and NaN again
when read (an infinite score reads as NaN too: neither is ever on a front).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from autopeft.errors import AutopeftError, JobFolderError
from autopeft.records import (
    Costs,
    FailureKind,
    MeasuredMemory,
    Measurement,
    Segment,
    SegmentFailed,
    Trial,
    TrialState,
    TrialStatus,
)
from autopeft.results.front import ObjectiveScale
from autopeft.results.live_trials import LiveTrials
from autopeft.results.store import Entry
from autopeft.search_spaces.configuration import Configuration


class LoggedAction(StrEnum):
    """What a decision entry can say of a trial."""

    CONTINUE = "continue"
    PROMOTE = "promote"
    PAUSE = "pause"
    STOP = "stop"
    COMPLETE = "complete"
    INFEASIBLE = "infeasible"
    DIVERGED = "diverged"
    FAILED = "failed"


_STATUS_AFTER: Mapping[LoggedAction, TrialStatus] = {
    LoggedAction.CONTINUE: TrialStatus.RUNNING,
    LoggedAction.PROMOTE: TrialStatus.RUNNING,
    LoggedAction.PAUSE: TrialStatus.PAUSED,
    LoggedAction.STOP: TrialStatus.STOPPED,
    LoggedAction.COMPLETE: TrialStatus.COMPLETED,
    LoggedAction.INFEASIBLE: TrialStatus.INFEASIBLE,
    LoggedAction.DIVERGED: TrialStatus.DIVERGED,
    LoggedAction.FAILED: TrialStatus.FAILED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLog:
    """All that is known of a job at one moment; a snapshot, never edited.

    Attributes:
        spec: The job as the user wrote it, validated; None before it is recorded.
        versions: Package versions the job was started with.
        prepared: What was found out before the first trial; None before it is recorded.
        scale: How objectives are compared; None before ``prepared``.
        budget: Limits given at a resume, by name; they replace those in ``spec``.
        states: Trials by number.
        resumable: Numbers of trials that were only paused when the job ended; a larger budget
            lets them go on.
        due: Numbers of trials whose next segment is decided on but not yet recorded
            (proposed, continued or promoted).
        undecided: Numbers of trials that were measured, with no decision recorded yet.
        unfinished: Segments submitted, with nothing recorded afterwards. In the log of a
            driver that died they are lost: submit them again, no retry is counted.
        failures: Failed segments with neither a retry nor a decision recorded yet.
        runs: Ids of the driver runs, oldest first.
        spent: Wall-clock seconds by run id, as last recorded by each.
        busy_seconds: Seconds that segments kept workers, all workers together.
        charged: Numbers of trials among ``unfinished`` whose lost segment is in ``busy_seconds``.
        timing: What was timed before the first trial; None where nothing was.
        limits: What each limit leaves out of the space; None where it was not found out.
        total_steps: Optimiser steps trained and measured, over all trials.
        end_reason: Why the job ended; None while it has not, or goes on after a resume.
        num_entries: Entries folded; the number of the last one.
        started: Time of the first entry, seconds since the epoch; for people only.
        updated: Time of the last entry, likewise.
    """

    spec: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    prepared: Mapping[str, Any] | None = None
    scale: ObjectiveScale | None = None
    budget: Mapping[str, float] = field(default_factory=dict)
    states: Mapping[int, TrialState] = field(default_factory=dict)
    resumable: tuple[int, ...] = ()
    due: tuple[int, ...] = ()
    undecided: tuple[int, ...] = ()
    unfinished: tuple[Segment, ...] = ()
    failures: tuple[SegmentFailed, ...] = ()
    runs: tuple[str, ...] = ()
    spent: Mapping[str, float] = field(default_factory=dict)
    busy_seconds: float = 0.0
    charged: tuple[int, ...] = ()
    timing: Mapping[str, Any] | None = None
    limits: tuple[Mapping[str, Any], ...] | None = None
    total_steps: int = 0
    end_reason: str | None = None
    num_entries: int = 0
    started: float | None = None
    updated: float | None = None

    @property
    def name(self) -> str | None:
        """Name of the job."""
        return None if self.spec is None else self.spec.get("name")

    @property
    def num_runs(self) -> int:
        """How many drivers have worked on the job."""
        return len(self.runs)

    @property
    def spent_seconds(self) -> float:
        """Wall-clock seconds of all runs together, as recorded."""
        return math.fsum(self.spent.values())

    def spent_seconds_before(self, run: str) -> float:
        """Return the seconds of all runs but ``run``."""
        return math.fsum(seconds for key, seconds in self.spent.items() if key != run)

    @property
    def trials(self) -> list[TrialState]:
        """States in the order of proposal."""
        return [self.states[number] for number in sorted(self.states)]


class LogFolder:
    """Fold a log one entry at a time.

    ``add`` takes entries in order; one that was folded before is passed over, so that the
    answer of a ``Store.append`` that wrote nothing new can be added too.

    Attributes named as those of :class:`JobLog` hold the same, and change as entries are added:
    what a driver asks at every entry costs no copy of the job, as ``state`` does.
    """

    def __init__(self) -> None:
        self.spec: Mapping[str, Any] | None = None
        self.versions: Mapping[str, str] = {}
        self.prepared: Mapping[str, Any] | None = None
        self.scale: ObjectiveScale | None = None
        self.budget: Mapping[str, float] = {}
        self.runs: tuple[str, ...] = ()
        self.busy_seconds = 0.0
        self.timing: Mapping[str, Any] | None = None
        self.limits: tuple[Mapping[str, Any], ...] | None = None
        self.total_steps = 0
        self.end_reason: str | None = None
        self.num_entries = 0
        self.started: float | None = None
        self.updated: float | None = None
        self._snapshot: JobLog | None = None
        self._states: dict[int, TrialState] = {}
        self._trials = LiveTrials(self._states)
        self._due: set[int] = set()
        self._undecided: set[int] = set()
        self._submitted: dict[int, Segment] = {}
        self._failed: dict[int, SegmentFailed] = {}
        self._charged: set[int] = set()
        self._paused: set[int] = set()
        self._spent: dict[str, float] = {}
        #: Reasons of the trials that were paused when the job ended.
        self._ended: dict[int, str] = {}

    @property
    def state(self) -> JobLog:
        """The job as it stands after the last entry: a snapshot."""
        if self._snapshot is None:
            self._snapshot = JobLog(
                spec=self.spec,
                versions=self.versions,
                prepared=self.prepared,
                scale=self.scale,
                budget=self.budget,
                states=dict(self._states),
                resumable=self.resumable,
                due=self.due,
                undecided=self.undecided,
                unfinished=self.unfinished,
                failures=self.failures,
                runs=self.runs,
                spent=dict(self._spent),
                busy_seconds=self.busy_seconds,
                charged=self.charged,
                timing=self.timing,
                limits=self.limits,
                total_steps=self.total_steps,
                end_reason=self.end_reason,
                num_entries=self.num_entries,
                started=self.started,
                updated=self.updated,
            )
        return self._snapshot

    @property
    def states(self) -> Mapping[int, TrialState]:
        """Trials by number; never to be changed."""
        return self._states

    @property
    def trials(self) -> LiveTrials:
        """States in the order of proposal."""
        return self._trials

    @property
    def resumable(self) -> tuple[int, ...]:
        """See :class:`JobLog`."""
        return tuple(sorted(self._ended))

    @property
    def due(self) -> tuple[int, ...]:
        """See :class:`JobLog`."""
        return tuple(sorted(self._due))

    @property
    def undecided(self) -> tuple[int, ...]:
        """See :class:`JobLog`."""
        return tuple(sorted(self._undecided))

    @property
    def unfinished(self) -> tuple[Segment, ...]:
        """See :class:`JobLog`."""
        return tuple(self._submitted[number] for number in sorted(self._submitted))

    @property
    def failures(self) -> tuple[SegmentFailed, ...]:
        """See :class:`JobLog`."""
        return tuple(self._failed[number] for number in sorted(self._failed))

    @property
    def charged(self) -> tuple[int, ...]:
        """See :class:`JobLog`."""
        return tuple(sorted(self._charged))

    @property
    def has_paused(self) -> bool:
        """Whether a trial is paused."""
        return bool(self._paused)

    def is_due(self, number: int) -> bool:
        """Tell whether the next segment of a trial is decided on but not yet recorded."""
        return number in self._due

    def spent_seconds_before(self, run: str) -> float:
        """Return the seconds of all runs but ``run``."""
        return math.fsum(seconds for key, seconds in self._spent.items() if key != run)

    def add(self, entry: Entry) -> None:
        """Take in one entry.

        Raises:
            JobFolderError: the entry cannot be understood.
        """
        if entry.number <= self.num_entries:
            return
        assert entry.number == self.num_entries + 1, (
            f"entry {entry.number} after entry {self.num_entries}: entries were left out"
        )
        fold_kind = getattr(self, f"_add_{entry.kind}", None)
        try:
            if fold_kind is not None:
                fold_kind(entry, entry.data)
        except (KeyError, TypeError, ValueError, AttributeError, AutopeftError) as error:
            raise JobFolderError(
                f"entry {entry.number} ({entry.kind}) of the log cannot be read: {error!r}",
                hint="open the job with the AutoPEFT version that wrote it",
            ) from error
        self.num_entries = entry.number
        self.updated = entry.time
        if self.started is None:
            self.started = entry.time
        self._snapshot = None

    def _add_job(self, entry: Entry, data: Mapping[str, Any]) -> None:
        self.spec, self.versions = dict(data["spec"]), dict(data["versions"])

    def _add_run(self, entry: Entry, data: Mapping[str, Any]) -> None:
        if entry.run not in self.runs:
            self.runs = (*self.runs, entry.run)
        if self.end_reason is not None:
            self.end_reason = None
            for number, reason in self._ended.items():
                self._change(number, status=TrialStatus.PAUSED, reason=reason)
            self._ended.clear()

    def _add_prepared(self, entry: Entry, data: Mapping[str, Any]) -> None:
        self.prepared, self.scale = dict(data), ObjectiveScale.from_json(data["scale"])

    def _add_budget(self, entry: Entry, data: Mapping[str, Any]) -> None:
        self.budget = {**self.budget, **data}

    def _add_proposal(self, entry: Entry, data: Mapping[str, Any]) -> None:
        trial = Trial(
            number=int(data["trial"]),
            configuration=Configuration.from_json(data["configuration"]),
            seed=int(data["seed"]),
            origin=str(data["origin"]),
            costs=Costs(**data["costs"]),
            turned_down=tuple(data.get("turned_down", ())),
        )
        self._trials.put(TrialState(trial=trial, status=TrialStatus.PROPOSED))
        self._due.add(trial.number)

    def _add_segment(self, entry: Entry, data: Mapping[str, Any]) -> None:
        segment = self._segment(data, checkpoint=data["checkpoint"])
        number = segment.trial.number
        self._clear(number)
        self._submitted[number] = segment
        self._change(number, status=TrialStatus.RUNNING, reason="")

    def _add_measurement(self, entry: Entry, data: Mapping[str, Any]) -> None:
        measurement = read_measurement(data)
        number = measurement.trial
        state = self._states[number]
        segment = self._submitted.get(number)
        begun = segment.from_step if segment is not None else state.step
        self._clear(number)
        self._undecided.add(number)
        self._change(number, curve=(*state.curve, measurement))
        self.total_steps += max(0, measurement.step - begun)
        self._add_busy(entry, {"busy_seconds": data.get("busy_seconds", data["seconds"])})

    def _add_failure(self, entry: Entry, data: Mapping[str, Any]) -> None:
        number = int(data["trial"])
        submitted = self._submitted.get(number)
        state = self._states[number]
        segment = self._segment(data, checkpoint=submitted.checkpoint if submitted else None)
        least = data.get("least_memory_bytes")
        self._clear(number)
        self._failed[number] = SegmentFailed(
            segment=segment,
            kind=FailureKind(data["kind"]),
            message=str(data["message"]),
            least_memory_bytes=least,
        )
        self._change(
            number,
            num_failures=state.num_failures + 1,
            least_memory_bytes=least or state.least_memory_bytes,
        )
        self._add_busy(entry, data)

    def _add_decision(self, entry: Entry, data: Mapping[str, Any]) -> None:
        number = int(data["trial"])
        action = LoggedAction(data["action"])
        status = _STATUS_AFTER[action]
        self._clear(number)
        if status is TrialStatus.RUNNING:
            self._due.add(number)
        has_reason = status not in (TrialStatus.RUNNING, TrialStatus.COMPLETED)
        self._change(number, status=status, reason=str(data["reason"]) if has_reason else "")

    def _add_limits(self, entry: Entry, data: Mapping[str, Any]) -> None:
        self.limits = tuple(data["limits"])

    def _add_timing(self, entry: Entry, data: Mapping[str, Any]) -> None:
        self.timing = dict(data)
        self._add_busy(entry, data)

    def _add_busy(self, entry: Entry, data: Mapping[str, Any]) -> None:
        seconds = float(data.get("busy_seconds") or 0.0)
        if entry.kind == "busy":
            self._charged.add(int(data["trial"]))
        self.busy_seconds += seconds

    def _add_spent(self, entry: Entry, data: Mapping[str, Any]) -> None:
        self._spent[entry.run] = float(data["seconds"])

    def _add_end(self, entry: Entry, data: Mapping[str, Any]) -> None:
        self.end_reason = str(data["reason"])
        for number in sorted(self._paused):
            self._ended[number] = self._states[number].reason
        for number, reason in self._ended.items():
            detail = f": {reason}" if reason else ""
            text = f"still paused when the job ended{detail}"
            self._change(number, status=TrialStatus.STOPPED, reason=text)

    def _segment(self, data: Mapping[str, Any], checkpoint: str | None) -> Segment:
        return Segment(
            trial=self._states[int(data["trial"])].trial,
            from_step=int(data["from_step"]),
            to_step=int(data["to_step"]),
            checkpoint=checkpoint,
            attempt=int(data["attempt"]),
        )

    def _clear(self, number: int) -> None:
        """Forget what was next for a trial."""
        self._due.discard(number)
        self._undecided.discard(number)
        self._submitted.pop(number, None)
        self._failed.pop(number, None)
        self._charged.discard(number)

    def _change(self, number: int, **changes: Any) -> None:
        state = replace(self._states[number], **changes)
        self._states[number] = state
        if state.status is TrialStatus.PAUSED:
            self._paused.add(number)
        else:
            self._paused.discard(number)


def fold(entries: Iterable[Entry]) -> JobLog:
    """Return the job that a whole log describes.

    Raises:
        JobFolderError: an entry cannot be understood.
    """
    folder = LogFolder()
    for entry in entries:
        folder.add(entry)
    return folder.state


def proposal_data(trial: Trial) -> dict[str, Any]:
    """Return the data of a ``proposal`` entry."""
    return {
        "trial": trial.number,
        "configuration": trial.configuration.to_json(),
        "seed": trial.seed,
        "origin": trial.origin,
        "costs": trial.costs.to_json(),
        "turned_down": list(trial.turned_down),
    }


def segment_data(segment: Segment) -> dict[str, Any]:
    """Return the data of a ``segment`` entry."""
    return {
        "trial": segment.trial.number,
        "from_step": segment.from_step,
        "to_step": segment.to_step,
        "checkpoint": segment.checkpoint,
        "attempt": segment.attempt,
    }


def measurement_data(measurement: Measurement) -> dict[str, Any]:
    """Return the data of a ``measurement`` entry; what is not finite becomes None."""
    return {
        "trial": measurement.trial,
        "step": measurement.step,
        "score": finite_or_none(measurement.score),
        "metrics": {name: finite_or_none(value) for name, value in measurement.metrics.items()},
        "seconds": finite_or_none(measurement.seconds),
        "memory_bytes": measurement.memory_bytes,
        "memory": None if measurement.memory is None else measurement.memory.to_json(),
        "checkpoint": measurement.checkpoint,
        "cpu_seconds": measurement.cpu_seconds,
    }


def read_measurement(data: Mapping[str, Any]) -> Measurement:
    """Read what :func:`measurement_data` wrote; None becomes NaN."""
    return Measurement(
        trial=int(data["trial"]),
        step=int(data["step"]),
        score=_number(data["score"]),
        metrics={name: _number(value) for name, value in data["metrics"].items()},
        seconds=_number(data["seconds"]),
        memory_bytes=None if data["memory_bytes"] is None else int(data["memory_bytes"]),
        checkpoint=str(data["checkpoint"]),
        memory=MeasuredMemory(**data["memory"]) if data.get("memory") else None,
        cpu_seconds=data.get("cpu_seconds"),
    )


def failure_data(failed: SegmentFailed) -> dict[str, Any]:
    """Return the data of a ``failure`` entry."""
    return {
        "trial": failed.segment.trial.number,
        "from_step": failed.segment.from_step,
        "to_step": failed.segment.to_step,
        "kind": failed.kind.value,
        "message": failed.message,
        "attempt": failed.segment.attempt,
        "least_memory_bytes": failed.least_memory_bytes,
    }


def decision_data(trial: int, step: int, action: str, reason: str) -> dict[str, Any]:
    """Return the data of a ``decision`` entry.

    Raises:
        ValueError: ``action`` is none of :class:`LoggedAction`.
    """
    return {
        "trial": trial,
        "step": step,
        "action": LoggedAction(action).value,
        "reason": reason,
    }


def unique_fact(kind: str, data: Mapping[str, Any]) -> str | None:
    """Return the name under which an entry is true once, or None where it may repeat."""
    match kind:
        case "job" | "prepared" | "timing" | "limits":
            return kind
        case "proposal":
            return f"proposal/{data['trial']}"
        case "measurement":
            return f"measurement/{data['trial']}/{data['step']}"
        case _:
            return None


def finite_or_none(value: float) -> float | None:
    """Return a plain float, or None where JSON has no word for it."""
    return float(value) if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
