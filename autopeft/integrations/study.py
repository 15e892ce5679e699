"""Ask and tell: a search whose trials somebody else trains.

A :class:`PeftStudy` proposes configurations and judges learning curves; where and how they are
trained is not its business. It keeps the log that a job of AutoPEFT keeps, in memory, and all it
knows follows from that log, so a study that is saved and read again goes on as it would have::

    study = PeftStudy.of_model(
        "google-bert/bert-base-uncased", task="classification", num_outputs=2,
        metric="accuracy", mode="max", max_steps=1000, batch_size=32, tokens=128,
    )
    asked = study.ask()
    model = get_peft_model(base, asked.peft_config)
    decision = study.report(asked.number, step=250, value=0.81)
"""

from __future__ import annotations

import copyreg
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from autopeft.errors import AutopeftError, InvalidSpaceError
from autopeft.integrations.asked import Asked
from autopeft.integrations.model_reading import Mode, read_model
from autopeft.proposers.base import PROPOSERS, CostFunction
from autopeft.records import (
    NUM_TRAINABLE_PARAMETERS,
    TRAIN_MEMORY_BYTES,
    TRAIN_SECONDS,
    Costs,
    FailureKind,
    Measurement,
    Segment,
    SegmentFailed,
    Trial,
    TrialState,
    TrialStatus,
)
from autopeft.results import job_log
from autopeft.results.front import ObjectiveScale, pareto_front
from autopeft.results.job_log import JobLog, LogFolder
from autopeft.results.memory_store import MemoryStore
from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.space import SearchSpace
from autopeft.stoppers.base import STOPPERS, Action, Decision

SCHEMA_VERSION = 1
_RUN = "study"


class PeftStudy:
    """A search by ask and tell.

    Deterministic: the same calls give the same answers. One thread at a time.

    A stopper judges at its rungs. What is reported between two of them is passed over, and a
    report beyond a rung counts as made at that rung, so that all trials are compared at the same
    steps however often each of them reports. A report that is known already changes nothing.

    Args:
        space: Where to search.
        scale: How the objectives compare; its scores are oriented so that more is better.
        costs: Costs of many configurations.
        mode: Whether the metric is to be large (``max``) or small (``min``).
        max_steps: Steps of a trial trained to the end, in the unit in which reports count.
        proposer: Name of a proposer.
        stopper: Name of a stopper.
        seed: Seeds every draw.
        exact_costs: Costs of one configuration, by exact accounting; those of ``costs`` where
            None.
        memory_bytes: What a trial may need; None where nothing limits it.

    Raises:
        AutopeftError: the proposer or the stopper is unknown.
    """

    def __init__(
        self,
        space: SearchSpace,
        scale: ObjectiveScale,
        costs: CostFunction,
        *,
        mode: Mode = "max",
        max_steps: int,
        proposer: str = "mobo",
        stopper: str = "extrapolate",
        seed: int = 0,
        exact_costs: Callable[[Configuration], Costs] | None = None,
        memory_bytes: float | None = None,
    ) -> None:
        if mode not in ("max", "min"):
            raise AutopeftError(f"mode is {mode!r}", hint="give 'max' or 'min'")
        self.space = space
        self.scale = scale
        self.costs = costs
        self.mode: Mode = mode
        self.max_steps = max_steps
        self.seed = seed
        #: Why the latest proposal is probably not worth its training; "" where it may be.
        self.doubt = ""
        self._names = (proposer, stopper)
        self._exact_costs = exact_costs or (lambda configuration: costs([configuration])[0])
        self._memory_bytes = memory_bytes
        #: What :meth:`of_model` was called with; None for a study that was made of parts.
        self._recipe: dict[str, Any] | None = None
        self._begin()

    @classmethod
    def of_model(
        cls,
        model: str | Path,
        *,
        task: str,
        num_outputs: int = 2,
        space: str | Path | Mapping[str, Any] = "default",
        metric: str,
        mode: Mode,
        max_steps: int,
        objectives: Sequence[str] = (NUM_TRAINABLE_PARAMETERS, TRAIN_MEMORY_BYTES),
        limits: Mapping[str, float] | None = None,
        batch_size: int = 32,
        tokens: int = 128,
        training: Mapping[str, Any] | None = None,
        gpus: float = 0,
        score_range: tuple[float, float] | None = None,
        proposer: str = "mobo",
        stopper: str = "extrapolate",
        seed: int = 0,
    ) -> Self:
        """Make a study of a model, of which the configuration alone is read.

        Args:
            model: Hub name, folder, built-in model, or a ``config.json`` alone.
            task: Name of the task that the model is trained for.
            num_outputs: Width of the task head, where the task has one.
            space: A preset, a YAML file, or its content.
            metric: Name of the metric behind the score.
            mode: ``max`` or ``min``.
            max_steps: Steps of a trial trained to the end, in the unit of the reports.
            objectives: The costs that count beside the metric.
            limits: Largest value allowed of a cost, by name.
            batch_size: Examples of a training step, by which memory is predicted.
            tokens: Tokens of each example, padding included.
            training: More settings of a training step as under ``training`` of a job file, e.g.
                ``{"optimizer": "adafactor", "gradient_checkpointing": True}``.
            gpus: GPUs of a trial; more than 0 predicts the memory of one.
            score_range: The metric's value of chance and the best there can be; None where the
                metric is known by its name.
            proposer: Name of a proposer.
            stopper: Name of a stopper.
            seed: Seeds every draw.

        Memory is predicted only where it is among objectives or limits; it counts as 0 otherwise.

        Raises:
            AutopeftError: the model cannot be had, or something does not fit it.
        """
        from autopeft.search_spaces.space_files import preset_names, self_contained

        is_preset = isinstance(space, str) and space in preset_names()
        recipe: dict[str, Any] = {
            "model": str(model),
            "task": task,
            "num_outputs": num_outputs,
            "space": space if is_preset else self_contained(space, base=Path.cwd()),
            "metric": metric,
            "mode": mode,
            "max_steps": max_steps,
            "objectives": list(objectives),
            "limits": dict(limits or {}),
            "batch_size": batch_size,
            "tokens": tokens,
            "training": dict(training or {}),
            "gpus": gpus,
            "score_range": None if score_range is None else list(score_range),
            "proposer": proposer,
            "stopper": stopper,
            "seed": seed,
        }
        return cls._made(recipe, None)

    @classmethod
    def _made(cls, recipe: Mapping[str, Any], scale: ObjectiveScale | None) -> Self:
        kept = ("proposer", "stopper")
        guest = read_model(**{k: v for k, v in recipe.items() if k not in kept}, scale=scale)
        study = cls(
            guest.space,
            guest.scale,
            guest.costs,
            exact_costs=guest.exact_costs,
            **{name: recipe[name] for name in (*kept, "mode", "max_steps", "seed")},
        )
        study._recipe = dict(recipe)
        return study

    # What is known -----------------------------------------------------------------------

    @property
    def metric(self) -> str:
        """Name of the metric behind the score."""
        return self.scale.metric

    @property
    def log(self) -> JobLog:
        """All that happened: what the functions of :mod:`autopeft.results.report` read."""
        return self._log.state

    @property
    def trials(self) -> list[TrialState]:
        """States in the order of proposal; scores are oriented so that more is better."""
        return list(self._log.trials)

    @property
    def num_entries(self) -> int:
        """How much has happened: grows whenever something changes."""
        return self._log.num_entries

    def trial(self, number: int) -> TrialState:
        """Return the state of one trial.

        Raises:
            AutopeftError: there is none of that number.
        """
        state = self._log.states.get(number)
        if state is None:
            raise AutopeftError(
                f"the study has no trial {number!r}",
                hint=f"it has {len(self._log.states)}, numbered from 0",
            )
        return state

    def front(self) -> list[TrialState]:
        """Return the trials trained to the end that no other one dominates, best score first."""
        return pareto_front(self.trials, self.scale)

    def value(self, state: TrialState) -> float:
        """Return the latest value of the metric, in its own orientation; NaN without one."""
        return self._sign * state.score

    def asked(self, number: int) -> Asked:
        """Return once more what was asked as a trial.

        Raises:
            AutopeftError: there is none of that number.
        """
        trial = self.trial(number).trial
        return Asked(
            number=trial.number,
            configuration=trial.configuration,
            origin=trial.origin,
            seed=trial.seed,
            costs=trial.costs,
            shape=self.space.shape,
        )

    # Ask -----------------------------------------------------------------------------------

    def ask(self, *, end_early: bool = False) -> Asked | None:
        """Return the next trial to train.

        Args:
            end_early: Whether to end where the proposer expects no further improvement.

        Returns:
            None where every configuration has been tried, or with ``end_early`` where none is
            worth it; ``doubt`` then says why.
        """
        proposals = self._proposer.propose(1)
        self.doubt = proposals[0].doubt if proposals else ""
        if not proposals or (end_early and self.doubt):
            return None
        proposal = proposals[0]
        return self._taken(
            proposal.configuration,
            proposal.origin,
            self.seed if proposal.seed is None else proposal.seed,
            proposal.turned_down,
        )

    def adopt(self, configuration: Configuration, *, origin: str = "guest") -> Asked:
        """Take in a configuration that somebody else chose, as a trial under way.

        Raises:
            InvalidSpaceError: it is no member of the space.
        """
        if configuration not in self.space:
            reasons = "; ".join(self.space.explain(configuration))
            raise InvalidSpaceError(f"{configuration} is not in the space: {reasons}")
        return self._taken(configuration, origin, self.seed, ())

    def promote(self, among: Sequence[int] | None = None) -> int | None:
        """Return the number of a paused trial that now deserves to go on; None where there is none.

        Args:
            among: The paused trials that can go on; all of them where None.
        """
        if not self._log.has_paused:
            return None
        promoted = self._stopper.promote(self._log.trials)
        if promoted is None or (among is not None and promoted[0] not in among):
            return None
        number, reason = promoted
        self._decide(number, "promote", reason)
        self._submit(number)
        return number

    # Tell ----------------------------------------------------------------------------------

    def report(
        self,
        number: int,
        step: float,
        value: float,
        *,
        seconds: float | None = None,
        metrics: Mapping[str, float] | None = None,
        can_pause: bool = True,
    ) -> Decision:
        """Tell what a trial measures at a step, and return whether it goes on.

        Args:
            number: The trial.
            step: Steps done so far, from 1 to ``max_steps``.
            value: Of the metric; one that is not finite ends the trial as diverged.
            seconds: Seconds of training so far; needed where ``train_seconds`` is an objective.
            metrics: Whatever else was measured, ``retention`` for one.
            can_pause: Whether a trial can be resumed later; where it cannot, it is stopped.

        Raises:
            AutopeftError: there is no such trial, or an objective was not told.
        """
        state = self.trial(number)
        if state.status.is_final:
            return Decision(action=Action.STOP, reason=state.reason or "trained to the end")
        if not self.measure(number, step, value, seconds=seconds, metrics=metrics):
            rung = self._stopper.next_rung(state.step)
            return Decision(action=Action.CONTINUE, reason=f"judged next at step {rung}")
        state = self.trial(number)
        if state.status.is_final:
            return Decision(action=Action.STOP, reason=state.reason or "trained to the end")
        decision = self._stopper.decide(state, self._log.trials.without(number))
        if decision.action is Action.PAUSE and not can_pause:
            decision = Decision(action=Action.STOP, reason=decision.reason)
        self._decide(number, decision.action.value, decision.reason)
        if decision.action is Action.CONTINUE:
            self._submit(number)
        return decision

    def measure(
        self,
        number: int,
        step: float,
        value: float,
        *,
        seconds: float | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Take in what a trial measures without judging it; for curves that others judge.

        At the last step the trial is complete. Arguments as for :meth:`report`.

        Returns:
            Whether that was a rung, and new.
        """
        state = self.trial(number)
        if state.status.is_final:
            return False
        if not math.isfinite(value):
            self.diverged(number, f"{self.metric} is {value} at step {step:g}")
            return True
        rung = self._rung_reached(state, step)
        if rung is None:
            return False
        told = {name: float(found) for name, found in (metrics or {}).items()}
        if seconds is not None:
            told.setdefault(TRAIN_SECONDS, float(seconds))
        lacking = [name for name in self.scale.measured_names if name not in told]
        if lacking:
            raise AutopeftError(
                f"trial {number} was reported without {lacking[0]}, which is an objective",
                hint="give seconds="
                if lacking[0] == TRAIN_SECONDS
                else f"give metrics={{{lacking[0]!r}: ...}}",
            )
        before = state.curve[-1].metrics.get(TRAIN_SECONDS, 0.0) if state.curve else 0.0
        measurement = Measurement(
            trial=number,
            step=rung,
            score=self._sign * float(value),
            metrics={**told, self.metric: float(value)},
            seconds=max(0.0, told.get(TRAIN_SECONDS, before) - before),
            memory_bytes=None,
            checkpoint=_checkpoint(number, rung),
        )
        self._record("measurement", job_log.measurement_data(measurement))
        if rung >= self.max_steps:
            broken = self.scale.broken_constraints(self.trial(number))
            kept_off = f", but not on the front: {'; '.join(broken)}" if broken else ""
            self._decide(number, "complete", f"trained to the end{kept_off}")
        return True

    def complete(
        self,
        number: int,
        value: float,
        *,
        seconds: float | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Tell that a trial is done and what it came to, whatever its last step was.

        Where the trial is known to be over already, nothing changes.
        """
        self.measure(number, self.max_steps, value, seconds=seconds, metrics=metrics)

    def stopped(self, number: int, reason: str) -> None:
        """Tell that a trial was ended before its last step by somebody's choice."""
        self._end(number, "stop", reason)

    def failed(self, number: int, message: str) -> None:
        """Tell that a trial broke down, and will not be tried again."""
        self._end(number, "failed", message)

    def retried(self, number: int) -> None:
        """Tell that a trial that had failed is tried again after all, from where it was."""
        if self.trial(number).status is TrialStatus.FAILED:
            self._decide(number, "promote", "tried again")
            self._submit(number)

    def diverged(self, number: int, message: str) -> None:
        """Tell that a trial's loss is infinite or not a number."""
        self._fail(number, FailureKind.DIVERGED, message, None)
        self._end(number, "diverged", message)

    def infeasible(
        self, number: int, message: str, *, least_memory_bytes: int | None = None
    ) -> None:
        """Tell that a trial found too little memory.

        Args:
            number: The trial.
            message: What happened.
            least_memory_bytes: What it needs at least, if that is known.
        """
        self._fail(number, FailureKind.OUT_OF_MEMORY, message, least_memory_bytes)
        self._end(number, "infeasible", message)

    # Keep ----------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return all that happened as plain JSON values."""
        return {
            "schema_version": SCHEMA_VERSION,
            "recipe": self._recipe,
            "facts": self._facts(),
            "scale": self.scale.to_json(),
            "entries": [
                {"kind": entry.kind, "data": dict(entry.data), "time": entry.time}
                for entry in self._store.read()
                if entry.kind not in ("run", "prepared")
            ],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what :meth:`state` returned, by replay; what happened here is forgotten.

        Raises:
            AutopeftError: the state is that of another study.
        """
        _check_version(state)
        facts = self._facts()
        other = [name for name, value in facts.items() if state["facts"].get(name) != value]
        if other:
            raise AutopeftError(
                f"the saved study has another {' and '.join(other)} than this one",
                hint="make the study with the same arguments, or call PeftStudy.load",
            )
        self.scale = ObjectiveScale.from_json(state["scale"])
        self._begin(state["entries"])

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Return the study that :meth:`state` describes; the model's configuration is read again.

        Raises:
            AutopeftError: it was made of parts, not by :meth:`of_model`, or cannot be read.
        """
        _check_version(state)
        if state["recipe"] is None:
            raise AutopeftError(
                "the saved study was made of parts that are not in it",
                hint="make a study of the same parts and call its restore",
            )
        study = cls._made(state["recipe"], ObjectiveScale.from_json(state["scale"]))
        study.restore(state)
        return study

    def save(self, path: str | Path) -> None:
        """Write :meth:`state` as a JSON file, whole or not at all."""
        write_json(path, self.state())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Return the study that :meth:`save` wrote.

        Raises:
            AutopeftError: as :meth:`from_state`.
        """
        return cls.from_state(read_json(path))

    def __reduce__(self) -> Any:
        """Copy by replay where that is possible: memory models are no matter for other hands."""
        if self._recipe is None:
            return copyreg.__newobj__, (type(self),), self.__dict__  # type: ignore[attr-defined]
        return type(self).from_state, (self.state(),)

    # Inside --------------------------------------------------------------------------------

    @property
    def _sign(self) -> int:
        return 1 if self.mode == "max" else -1

    def _begin(self, entries: Sequence[Mapping[str, Any]] = ()) -> None:
        """Make proposer and stopper, and replay what happened."""
        arguments: dict[str, Any] = {
            "space": self.space,
            "scale": self.scale,
            "costs": self.costs,
            "max_steps": self.max_steps,
            "seed": self.seed,
        }
        proposer, stopper = self._names
        self._proposer = PROPOSERS.get(proposer)(
            **arguments, memory_bytes=self._memory_bytes, exact_costs=self._exact_costs
        )
        self._stopper = STOPPERS.get(stopper)(**arguments)
        self._store = MemoryStore()
        self._log = LogFolder()
        self._log.add(self._store.begin_run(_RUN))
        facts = {"shape": self.space.shape.to_json(), "task": self.space.shape.task}
        self._add("prepared", {**facts, "metric": self.metric, "scale": self.scale.to_json()})
        clock = self._store.clock
        for each in entries:
            self._store.clock = _standing_at(float(each["time"]))
            self._add(each["kind"], each["data"])
        self._store.clock = clock
        for state in self._log.trials:
            self._proposer.observe(state)

    def _facts(self) -> dict[str, Any]:
        """Return what two studies have in common that can go on with one another's log."""
        proposer, stopper = self._names
        return {
            "proposer": proposer,
            "stopper": stopper,
            "seed": self.seed,
            "max_steps": self.max_steps,
            "mode": self.mode,
            "metric": self.metric,
            "space": {"name": self.space.name, "dimensions": list(self.space.dimension_names)},
            "model": self.space.shape.to_json(),
        }

    def _taken(
        self, configuration: Configuration, origin: str, seed: int, turned_down: Sequence[str]
    ) -> Asked:
        number = len(self._log.states)
        trial = Trial(
            number=number,
            configuration=configuration,
            seed=seed,
            origin=origin,
            costs=self._exact_costs(configuration),
            turned_down=tuple(turned_down),
        )
        self._record("proposal", job_log.proposal_data(trial))
        self._submit(number)
        return self.asked(number)

    def _rung_reached(self, state: TrialState, step: float) -> int | None:
        """Return the last rung at or below ``step`` that the trial was not measured at."""
        found = None
        rung = self._stopper.next_rung(state.step)
        while rung <= step:
            found = rung
            if rung >= self.max_steps:
                break
            rung = self._stopper.next_rung(rung)
        return found

    def _segment(self, number: int) -> Segment:
        state = self.trial(number)
        return Segment(
            trial=state.trial,
            from_step=state.step,
            to_step=self._stopper.next_rung(state.step),
            checkpoint=_checkpoint(number, state.step) if state.curve else None,
        )

    def _submit(self, number: int) -> None:
        self._record("segment", job_log.segment_data(self._segment(number)))

    def _fail(self, number: int, kind: FailureKind, message: str, least: int | None) -> None:
        if self.trial(number).status.is_final:
            return
        failed = SegmentFailed(
            segment=self._segment(number), kind=kind, message=message, least_memory_bytes=least
        )
        self._record("failure", job_log.failure_data(failed))

    def _end(self, number: int, action: str, reason: str) -> None:
        if not self.trial(number).status.is_final:
            self._decide(number, action, reason)

    def _decide(self, number: int, action: str, reason: str) -> None:
        step = self.trial(number).step
        self._record("decision", job_log.decision_data(number, step, action, reason))

    def _record(self, kind: str, data: dict[str, Any]) -> None:
        self._add(kind, data)
        self._proposer.observe(self._log.states[data["trial"]])

    def _add(self, kind: str, data: Mapping[str, Any]) -> None:
        unique = job_log.unique_fact(kind, data)
        self._log.add(self._store.append(_RUN, kind, data, unique=unique))

    def __repr__(self) -> str:
        done = sum(state.status is TrialStatus.COMPLETED for state in self._log.trials)
        return (
            f"<PeftStudy of {self.space.shape.name}: {len(self._log.states)} trials, "
            f"{done} completed>"
        )


def write_json(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    path = Path(path)
    writing = path.with_name(f".{path.name}.{os.getpid()}.writing")
    writing.write_text(json.dumps(values, allow_nan=False), encoding="utf-8")
    writing.replace(path)


def read_json(path: str | Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        AutopeftError: it cannot be read, or holds no object.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AutopeftError(f"{str(path)!r} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise AutopeftError(f"{str(path)!r} holds {type(found).__name__}, not an object")
    return found


def _check_version(state: Mapping[str, Any]) -> None:
    version = state.get("schema_version")
    if version != SCHEMA_VERSION:
        raise AutopeftError(
            f"the saved study has schema version {version!r}, this AutoPEFT reads {SCHEMA_VERSION}",
            hint="open it with the AutoPEFT version that wrote it",
        )


def _standing_at(time: float) -> Callable[[], float]:
    return lambda: time


def _checkpoint(number: int, step: int) -> str:
    """Return a name for what a trial's trainer keeps at a step; nothing is kept here."""
    return f"trial-{number}-step-{step}"
