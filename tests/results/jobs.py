"""Small jobs built in code: trials, logs and the fold of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from autopeft.records import Costs, FailureKind, Measurement, Segment, SegmentFailed, Trial
from autopeft.results import job_log
from autopeft.results.front import ObjectiveScale
from autopeft.results.job_log import JobLog, LogFolder
from autopeft.results.memory_store import MemoryStore
from autopeft.results.store import Entry, Store
from autopeft.search_spaces.configuration import Configuration, Module

SCALE = ObjectiveScale(
    metric="accuracy",
    cost_names=("num_trainable_parameters", "train_memory_bytes"),
    score_reference=0.5,
    score_ideal=1.0,
    cost_ideal=(1_000.0, 100 * 2.0**20),
    cost_reference=(10_000_000.0, 1000 * 2.0**20),
)
FULL_STEPS = 96


def make_configuration(rank: int = 8, *, learning_rate: float = 1e-3) -> Configuration:
    module = Module.of(
        "lora", [0, 1, 2], rank=rank, alpha_ratio=2.0, sites=("q", "v"), dora=False, rslora=False
    )
    return Configuration(modules=(module,), learning_rate=learning_rate)


def make_trial(
    number: int, *, parameters: int = 100_000, memory: int = 200 * 2**20, origin: str = "sobol"
) -> Trial:
    return Trial(
        number=number,
        configuration=make_configuration(learning_rate=1e-4 * (number + 1)),
        seed=0,
        origin=origin,
        costs=Costs(
            num_trainable_parameters=parameters,
            num_adapter_parameters=max(0, parameters - 770),
            train_memory_bytes=memory,
        ),
    )


def make_measurement(trial: int, step: int, score: float, **changes: Any) -> Measurement:
    values: dict[str, Any] = {
        "trial": trial,
        "step": step,
        "score": score,
        "metrics": {"accuracy": score, "f1": score - 0.01, "train_loss": 1.0 - score},
        "seconds": 1.5,
        "memory_bytes": None,
        "checkpoint": f"trial-{trial:04d}-step-{step:05d}",
    }
    return Measurement(**{**values, **changes})


class Scribe:
    """Write a job's log as a driver does, folding it on the way."""

    def __init__(self, store: Store | None = None, *, run: str = "run-1") -> None:
        self.store = store or MemoryStore()
        self.run = run
        self.folder = LogFolder()
        self.trials: dict[int, Trial] = {}
        self.store.begin_run(run)
        for entry in self.store.read():
            self.folder.add(entry)

    @property
    def log(self) -> JobLog:
        return self.folder.state

    def add(self, kind: str, data: Mapping[str, Any]) -> Entry:
        unique = job_log.unique_fact(kind, data)
        entry = self.store.append(self.run, kind, data, unique=unique)
        self.folder.add(entry)
        return entry

    def job(self, name: str = "sst2") -> None:
        self.add("job", {"spec": {"name": name}, "versions": {"torch": "2.13.0"}})

    def prepared(self, scale: ObjectiveScale = SCALE, **more: Any) -> None:
        facts = {"task": "classification", "metric": scale.metric, "greater_is_better": True}
        self.add("prepared", {**facts, "scale": scale.to_json(), **more})

    def propose(self, trial: Trial) -> Trial:
        self.trials[trial.number] = trial
        self.add("proposal", job_log.proposal_data(trial))
        return trial

    def segment(self, trial: int, to_step: int, *, attempt: int = 0) -> Segment:
        state = self.log.states[trial]
        segment = Segment(
            trial=state.trial,
            from_step=state.step,
            to_step=to_step,
            checkpoint=state.checkpoint,
            attempt=attempt,
        )
        self.add("segment", job_log.segment_data(segment))
        return segment

    def measure(self, trial: int, step: int, score: float, **changes: Any) -> None:
        self.segment(trial, step)
        measurement = make_measurement(trial, step, score, **changes)
        self.add("measurement", job_log.measurement_data(measurement))

    def fail(self, segment: Segment, kind: FailureKind, message: str = "it broke") -> None:
        failed = SegmentFailed(segment=segment, kind=kind, message=message)
        self.add("failure", job_log.failure_data(failed))

    def decide(self, trial: int, action: str, reason: str = "") -> None:
        step = self.log.states[trial].step
        self.add("decision", job_log.decision_data(trial, step, action, reason))

    def completed(self, trial: Trial, scores: Sequence[float]) -> None:
        """Propose a trial and train it to the end, one segment for each score."""
        self.propose(trial)
        for index, score in enumerate(scores):
            self.measure(trial.number, FULL_STEPS * (index + 1) // len(scores), score)
            is_last = index == len(scores) - 1
            self.decide(trial.number, "complete" if is_last else "continue", "a rung")


def example_job(store: Store | None = None) -> Scribe:
    """Write a finished job with one trial of every fate, and a front of three."""
    scribe = Scribe(store)
    scribe.job()
    scribe.prepared()
    mib = 2**20
    scribe.completed(
        make_trial(0, parameters=900_000, memory=400 * mib, origin="portfolio:lora-sweep"),
        (0.8, 0.92),
    )
    scribe.completed(make_trial(1, parameters=40_000, memory=220 * mib), (0.7, 0.90))
    scribe.completed(make_trial(2, parameters=2_000, memory=150 * mib), (0.75, 0.7))
    scribe.completed(make_trial(3, parameters=950_000, memory=410 * mib), (0.6, 0.85))
    scribe.propose(make_trial(4))
    scribe.measure(4, 48, 0.55)
    scribe.decide(4, "stop", "worst of 4 at this cost")
    scribe.propose(make_trial(5))
    scribe.measure(5, 48, 0.6, memory_bytes=300 * mib)
    scribe.decide(5, "pause", "waits for others")
    scribe.propose(make_trial(6, memory=9_000 * mib))
    scribe.fail(scribe.segment(6, 48), FailureKind.OUT_OF_MEMORY, "needs 9 GiB")
    scribe.decide(6, "infeasible", "needs 9 GiB")
    scribe.propose(make_trial(7))
    scribe.measure(7, 48, math.nan)
    scribe.decide(7, "diverged", "the loss is NaN")
    scribe.propose(make_trial(8))
    scribe.fail(scribe.segment(8, 48), FailureKind.ERROR, "ValueError: no")
    scribe.decide(8, "failed", "ValueError: no")
    scribe.add("spent", {"seconds": 61.5})
    scribe.add("end", {"reason": "the budget of 9 trials is spent"})
    return scribe
