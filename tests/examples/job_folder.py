"""A finished job, written straight into its log: no model, no training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autopeft.records import Costs, Measurement, Segment, Trial
from autopeft.results.front import ObjectiveScale
from autopeft.results.job_log import (
    decision_data,
    measurement_data,
    proposal_data,
    segment_data,
    unique_fact,
)
from autopeft.results.sqlite_store import SqliteStore
from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.service.jobs import JobFolder

RUNGS = (8, 16, 32)
STOP_REASON = "score 0.61 at step 8 is below the best half of 4 trials that cost no more"

# Rank, then the scores at the rungs it got to.
CURVES: Sequence[tuple[int, tuple[float, ...]]] = (
    (2, (0.60, 0.70, 0.80)),
    (4, (0.62, 0.74, 0.84)),
    (8, (0.64, 0.78, 0.88)),
    (16, (0.61,)),
    (32, (0.62, 0.70)),
)


def make_trial(number: int, rank: int) -> Trial:
    """Return LoRA on the queries of a small model."""
    module = Module.of("lora", (0, 1, 2), rank=rank, alpha_ratio=2.0, sites=("q",))
    return Trial(
        number=number,
        configuration=Configuration(modules=(module,), learning_rate=1e-3),
        seed=0,
        origin="portfolio" if number == 0 else "mobo",
        costs=Costs(
            num_trainable_parameters=1_000 + 500 * rank,
            num_adapter_parameters=500 * rank,
            train_memory_bytes=100_000_000 + 2_000_000 * rank,
        ),
    )


def write_finished_job(folder: Path) -> Path:
    """Write a job of five trials, two of them stopped and three on the front."""
    scale = ObjectiveScale(
        metric="accuracy",
        cost_names=("num_trainable_parameters", "train_memory_bytes"),
        score_reference=0.5,
        score_ideal=1.0,
        cost_ideal=(1_000.0, 1e8),
        cost_reference=(100_000.0, 1e9),
    )
    paths = JobFolder(folder)
    paths.create()
    store = SqliteStore(paths.log)

    def append(kind: str, data: dict[str, object]) -> None:
        store.append("run", kind, data, unique=unique_fact(kind, data))

    store.begin_run("run")
    append("job", {"spec": {"name": "tiny", "training": {"steps": RUNGS[-1]}}, "versions": {}})
    append(
        "prepared",
        {
            "task": "classification",
            "metric": "accuracy",
            "greater_is_better": True,
            "scale": scale.to_json(),
        },
    )
    for number, (rank, scores) in enumerate(CURVES):
        trial = make_trial(number, rank)
        append("proposal", proposal_data(trial))
        done, checkpoint = 0, None
        for step, score in zip(RUNGS, scores, strict=False):
            segment = Segment(trial=trial, from_step=done, to_step=step, checkpoint=checkpoint)
            append("segment", segment_data(segment))
            done, checkpoint = step, f"{number}-{step}"
            measurement = Measurement(
                trial=number,
                step=step,
                score=score,
                metrics={"accuracy": score, "train_loss": 1.0 - score},
                seconds=1.5,
                memory_bytes=None,
                checkpoint=checkpoint,
            )
            append("measurement", measurement_data(measurement))
        completed = done == RUNGS[-1]
        action, reason = ("complete", "") if completed else ("stop", STOP_REASON)
        append("decision", decision_data(number, done, action, reason))
    append("spent", {"seconds": 30.0})
    append("end", {"reason": "budget of 5 trials is spent"})
    store.close()
    return folder
