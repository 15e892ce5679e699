"""What `saved_activations: 4bit` saves, what it costs, and what it does to training.

    python benchmarks/saved_activations/run.py

trains LoRA on all linear layers of two built-in models, an encoder and a small Llama, with saved
activations in full and in 4 bits, under several seeds, and writes memory, seconds a step and losses
to ``results.json``. The two take turns, part by part, so that other work on the machine slows down
both. Arguments name the models to run, and then nothing is written.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from autopeft.workers.openmp import share_cores

RESULTS = Path(__file__).parent / "results.json"
KINDS = ("full", "4bit")
SEEDS = (0, 1, 2)
STEPS = 96
#: Steps between two evaluations; loss is told of the last of them.
PART = 24
JOBS: dict[str, dict[str, Any]] = {
    "minilm": {
        "model": "builtin:minilm",
        "data": {"name": "builtin:docstrings", "limit": {"train": 1600, "validation": 320}},
        "training": {"batch_size": 16, "max_tokens": 64, "steps": STEPS},
    },
    "docstring-lm": {
        "model": "builtin:docstring-lm",
        "data": {"name": "builtin:signatures", "limit": {"train": 1600, "validation": 320}},
        "task": "causal-lm",
        "training": {"batch_size": 8, "max_tokens": 128, "steps": STEPS},
    },
}


def main(words: list[str]) -> None:
    share_cores()
    found = {name: measure(name) for name in JOBS if not words or name in words}
    print(json.dumps(found, indent=1))
    if not words:
        import torch
        import transformers

        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        facts = {"machine": platform.machine(), "versions": versions, "load": os.getloadavg()[0]}
        RESULTS.write_text(json.dumps({**facts, "models": found}, indent=1) + "\n")


def measure(name: str) -> dict[str, Any]:
    """Train on one model and return what came of it."""
    from autopeft.service.job_spec import parse_job
    from autopeft.service.preparation import prepare

    job = {**JOBS[name], "space": "lora", "workers": {"executor": "inline"}}
    with tempfile.TemporaryDirectory(prefix="autopeft-saved-") as folder:
        spec = parse_job({**job, "output": folder}, base=Path.cwd(), name=name)
        workbench = prepare(spec)
        return {
            "trained": trained(spec, workbench, Path(folder)),
            "memory": [
                memory_of(spec, workbench, Path(folder), kind, checkpointing, precision)
                for checkpointing in (False, True)
                for precision in ("float32", "bfloat16")
                for kind in KINDS
            ],
        }


def trained(spec: Any, workbench: Any, folder: Path) -> dict[str, Any]:
    """Train to the end under every seed, the kinds in turn."""
    from autopeft.records import Segment

    worker = worker_of(spec, workbench, folder)
    curves: dict[tuple[str, int], list[Any]] = {}
    for seed, start, kind in itertools.product(SEEDS, range(0, STEPS, PART), KINDS):
        done = curves.setdefault((kind, seed), [])
        number = list(curves).index((kind, seed))
        segment = Segment(
            trial=trial_of(workbench, number, seed, saved_activations=kind),
            from_step=start,
            to_step=start + PART,
            checkpoint=done[-1].checkpoint if done else None,
        )
        done.append(require(worker.run(segment)))
        print(spec.name, kind, seed, start + PART, done[-1].metrics, flush=True)
    found = {}
    for kind in KINDS:
        several = [curve for (each, _), curve in curves.items() if each == kind]
        found[kind] = {
            "seconds_a_step": round(min(s for c in several for s in seconds_a_step(c)), 4),
            "train_loss": [round(c[-1].metrics["train_loss"], 5) for c in several],
            "score": [round(c[-1].score, 5) for c in several],
            "measured_bytes": several[0][0].memory_bytes,
        }
    full, packed = (found[kind] for kind in KINDS)
    return {
        **found,
        "mean_train_loss": {k: round(statistics.mean(found[k]["train_loss"]), 5) for k in KINDS},
        "slower": round(packed["seconds_a_step"] / full["seconds_a_step"] - 1, 3),
    }


def seconds_a_step(curve: list[Any]) -> list[float]:
    """Return the seconds of a step in each part of a trial."""
    totals = [0.0, *(each.metrics["train_seconds"] for each in curve)]
    return [(after - before) / PART for before, after in itertools.pairwise(totals)]


def memory_of(
    spec: Any, workbench: Any, folder: Path, kind: str, checkpointing: bool, precision: str
) -> dict[str, Any]:
    """Predict and measure one step."""
    from autopeft.records import Segment

    own = {
        "saved_activations": kind,
        "gradient_checkpointing": checkpointing,
        "precision": precision,
    }
    trial = trial_of(workbench, 0, 0, **own)
    worker = worker_of(spec, workbench, folder)
    measured = require(worker.run(Segment(trial=trial, from_step=0, to_step=1))).memory_bytes
    predicted = workbench.exact_costs(trial.configuration).train_memory_bytes
    quick = workbench.costs([trial.configuration])[0].train_memory_bytes
    row = {
        **own,
        "measured_bytes": measured,
        "predicted_bytes": predicted,
        "error": round(predicted / measured - 1, 5),
        "quick_error": round(quick / predicted - 1, 5),
    }
    print(spec.name, row, flush=True)
    return row


def trial_of(workbench: Any, number: int, seed: int, **own: Any) -> Any:
    """Return a trial of LoRA on all linear layers with training settings of its own."""
    from autopeft.records import Trial
    from autopeft.search_spaces.configuration import Configuration, Module
    from autopeft.search_spaces.method import get_method

    shape = workbench.prepared.shape
    settings = {d.name: d.default for d in get_method("lora").dimensions(shape)}
    module = Module.of("lora", tuple(range(shape.num_layers)), **settings)
    configuration = Configuration(
        modules=(module,), learning_rate=1e-3, training=tuple(sorted(own.items()))
    )
    costs = workbench.exact_costs(replace(configuration, training=()))
    return Trial(
        number=number, configuration=configuration, seed=seed, origin="benchmark", costs=costs
    )


def worker_of(spec: Any, workbench: Any, folder: Path) -> Any:
    """Return a worker of the job in this process."""
    from autopeft.workers.settings import WorkerSettings
    from autopeft.workers.worker import Worker

    prepared = workbench.prepared
    settings = WorkerSettings(
        model=spec.model,
        task=prepared.task,
        metric=prepared.metric,
        training=spec.training,
        num_outputs=prepared.num_outputs,
        seed=spec.seed,
        checkpoints=folder,
    )
    return Worker(settings, workbench.plan)


def require(event: Any) -> Any:
    """Return what was measured."""
    from autopeft.records import SegmentDone

    assert isinstance(event, SegmentDone), event
    return event.measurement


if __name__ == "__main__":
    main(sys.argv[1:])
