"""A whole job without a model: a scripted executor behind the real driver, store and rooms."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autopeft.records import (
    Costs,
    FailureKind,
    Measurement,
    Segment,
    SegmentDone,
    SegmentEvent,
    SegmentFailed,
    Trial,
)
from autopeft.results.front import ObjectiveScale
from autopeft.results.sqlite_store import SqliteStore
from autopeft.results.store import Entry
from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.space import SearchSpace, load_space
from autopeft.service import preparation, running
from autopeft.service.job_spec import JobSpec, parse_job
from autopeft.service.preparation import Prepared, Workbench
from autopeft.workers.checkpoints import checkpoint_name
from autopeft.workers.executors.base import Executor
from tests.search_spaces.shapes import bert_shape

STEPS = 32

#: What happens to a segment instead of success, by (trial, attempt).
Script = Mapping[tuple[int, int], FailureKind]


class KilledError(BaseException):
    """The driver's process is gone: nothing after this point runs."""


def make_spec(folder: Path, **changes: Any) -> JobSpec:
    values: dict[str, Any] = {
        "model": "builtin:minilm",
        "data": "builtin:docstrings",
        "training": {"steps": STEPS},
        "budget": {"trials": 6},
        "proposer": "random",
        "output": str(folder),
    }
    return parse_job(values, base=folder.parent, overrides=changes)


def fake_costs(
    space: SearchSpace, bytes_per_parameter: int = 16
) -> Callable[[Sequence[Configuration]], list[Costs]]:
    def costs(configurations: Sequence[Configuration]) -> list[Costs]:
        counts = [space.num_adapter_parameters(c) for c in configurations]
        return [
            Costs(
                num_trainable_parameters=count + 99,
                num_adapter_parameters=count,
                train_memory_bytes=10**8 + bytes_per_parameter * count,
            )
            for count in counts
        ]

    return costs


def fake_score(configuration: Configuration, step: int, seed: int) -> float:
    """Return a score in (0, 1) that depends on nothing but its arguments."""
    text = f"{configuration.key}/{seed}"
    luck = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 16**8
    return luck * (0.5 + 0.5 * step / STEPS)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What workers have, and what trials really need, in bytes; prediction knows neither."""

    there: float
    needed: Callable[[Trial], float]


class ScriptedExecutor(Executor):
    """Finish every segment at once, save those the script makes fail."""

    def __init__(
        self,
        checkpoints: Path,
        script: Script,
        num_workers: int = 1,
        memory: Memory | None = None,
    ) -> None:
        self.num_workers = num_workers
        self._memory = memory
        self.submitted: list[Segment] = []
        self._checkpoints = checkpoints
        self._script = script
        self._waiting: deque[Segment] = deque()

    def submit(self, segment: Segment) -> None:
        assert len(self._waiting) < self.num_workers, "more segments than workers"
        if segment.checkpoint is not None:
            assert (self._checkpoints / segment.checkpoint).is_dir(), "checkpoint was removed"
        self.submitted.append(segment)
        self._waiting.append(segment)

    def next_event(self, timeout_seconds: float | None = None) -> SegmentEvent | None:
        segment = self._waiting.popleft()
        trial = segment.trial
        kind = self._script.get((trial.number, segment.attempt))
        if kind is not None:
            return SegmentFailed(segment=segment, kind=kind, message=f"scripted {kind}")
        needed = None if self._memory is None else int(self._memory.needed(trial))
        if self._memory is not None and needed is not None and needed > self._memory.there:
            return SegmentFailed(
                segment=segment, kind=FailureKind.OUT_OF_MEMORY, message="out of memory"
            )
        name = checkpoint_name(trial.number, segment.to_step)
        (self._checkpoints / name).mkdir(exist_ok=True)
        score = fake_score(trial.configuration, segment.to_step, trial.seed)
        return SegmentDone(
            segment=segment,
            measurement=Measurement(
                trial=trial.number,
                step=segment.to_step,
                score=score,
                metrics={"accuracy": score, "train_loss": 1 - score},
                seconds=1.0,
                memory_bytes=needed,
                checkpoint=name,
            ),
        )

    def close(self) -> None:
        self._waiting.clear()


class FakeJob:
    """Replace model, data and workers under the driver; everything else is real."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.script: dict[tuple[int, int], FailureKind] = {}
        self.num_workers = 1
        self.bytes_per_parameter = 16
        self.memory: Memory | None = None
        #: What the driver takes the workers to have.
        self.memory_bytes: int | None = None
        self.fingerprint = "f" * 64
        self.executors: list[ScriptedExecutor] = []
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(preparation, "prepare", self._prepare)
        monkeypatch.setattr(running, "create_executor", self._create_executor)
        monkeypatch.setattr(running, "_write_assets", lambda paths, workbench, spec: None)

    def _prepare(self, spec: JobSpec, **options: Any) -> Workbench:
        shape = bert_shape(num_layers=4)
        space = load_space(spec.space, shape, base=spec.base)
        costs = fake_costs(space, self.bytes_per_parameter)
        scale = ObjectiveScale(
            metric="accuracy",
            cost_names=("num_trainable_parameters", "train_memory_bytes"),
            score_reference=0.0,
            score_ideal=1.0,
            cost_ideal=(1e2, 1e8),
            cost_reference=(1e6, 2e8),
        )
        prepared = Prepared(
            shape=shape,
            task="classification",
            metric="accuracy",
            greater_is_better=True,
            id2label=("no", "yes"),
            num_outputs=2,
            fingerprint=self.fingerprint,
            provenance={},
            num_rows={"train": 10, "validation": 10, "test": 10},
            text_columns=("text",),
            input_roles=("text",),
            scale=scale,
            memory_tokens=16,
        )
        plan: Any = SimpleNamespace(generation=None, probe=None)
        return Workbench(
            prepared=prepared,
            plan=plan,
            max_tokens=16,
            training=spec.training,
            space=space,
            costs=costs,
            exact_costs=lambda configuration: costs([configuration])[0],
            memory_bytes=self.memory_bytes,
        )

    def _create_executor(self, spec: JobSpec, checkpoints: Path, workbench: Workbench) -> Executor:
        executor = ScriptedExecutor(checkpoints, self.script, self.num_workers, self.memory)
        self.executors.append(executor)
        return executor

    def kill_after(self, num_appends: int) -> None:
        """Let the driver die right after its ``num_appends``-th append."""
        counter = iter(range(1, 10**9))
        append = SqliteStore.append

        def dying(store: SqliteStore, *arguments: Any, **options: Any) -> Entry:
            entry = append(store, *arguments, **options)
            if next(counter) == num_appends:
                raise KilledError
            return entry

        self._monkeypatch.setattr(SqliteStore, "append", dying)

    def live(self) -> None:
        """Let drivers live again."""
        self._monkeypatch.undo()
        self.__init__(self._monkeypatch)  # type: ignore[misc]
