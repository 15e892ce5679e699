"""Searches on workers whose memory a third of the space does not fit into.

    AUTOPEFT_DATA=~/data python benchmarks/memory_limit/run.py

sets ``workers.memory`` to the predicted need of two thirds of each space, runs each search in
the accounted memory of the CPU, where a step that takes more fails as it would on a GPU, and
writes what was sent in vain to ``results.json``. One search after the other; one that is there
already is not run again.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from autopeft.workers.openmp import share_cores

RESULTS = Path(__file__).parent / "results.json"
DATA = os.environ.get("AUTOPEFT_DATA", "")
#: Part of the space that is to fit.
FITTING = 2 / 3
NUM_SAMPLES = 256


def files(name: str, train: int, validation: int) -> dict[str, Any]:
    """Return a data set of AUTOPEFT_DATA, cut to a number of rows."""
    splits = {split: f"{DATA}/{name}/{split}.jsonl" for split in ("train", "validation", "test")}
    return {**splits, "limit": {"train": train, "validation": validation}}


JOBS: dict[str, dict[str, Any]] = {
    "docstrings-default": {
        "model": "builtin:minilm",
        "data": {"name": "builtin:docstrings", "limit": {"train": 800, "validation": 160}},
        "training": {"batch_size": 16, "max_tokens": 64, "steps": 32},
        "budget": {"trials": 24},
    },
    "banking77-autopeft": {
        "model": "builtin:minilm",
        "data": files("banking77", 800, 160),
        "space": "autopeft",
        "training": {"batch_size": 16, "max_tokens": 32, "steps": 32},
        "budget": {"trials": 24},
    },
    "tiny-lm-mixed": {
        "model": "builtin:docstring-lm-tiny",
        "data": {"name": "builtin:signatures", "limit": {"train": 600, "validation": 120}},
        "task": "causal-lm",
        "space": "mixed",
        "training": {"batch_size": 8, "max_tokens": 64, "steps": 32},
        "budget": {"trials": 24},
    },
}


def search(name: str) -> dict[str, Any]:
    """Run one search under its limit and return what became of it."""
    from autopeft.records import TrialStatus
    from autopeft.results.limits import limit_lines, limits_of
    from autopeft.results.sqlite_store import SqliteStore
    from autopeft.service.job_spec import parse_job
    from autopeft.service.jobs import JobFolder
    from autopeft.service.observer import SilentObserver
    from autopeft.service.preparation import prepare
    from autopeft.service.running import run_job

    with tempfile.TemporaryDirectory(prefix="autopeft-limit-") as folder:
        output = Path(folder) / "run"
        values = {**JOBS[name], "output": str(output), "workers": {"executor": "inline"}}
        free = prepare(parse_job(values, base=Path.cwd(), name=name))
        sample = list(free.space.sobol(NUM_SAMPLES, seed=1))
        needed = np.array([free.exact_costs(each).train_memory_bytes for each in sample])
        limit = int(np.quantile(needed, FITTING))
        values["workers"] = {"executor": "inline", "memory": limit}
        log = run_job(
            parse_job(values, base=Path.cwd(), name=name), output, observer=SilentObserver()
        )
        store = SqliteStore(JobFolder(output).log)
        kinds = [entry.kind for entry in store.read()]
        store.close()
    infeasible = [s for s in log.trials if s.status is TrialStatus.INFEASIBLE]
    num_segments = kinds.count("segment")
    in_vain = sum(state.num_failures for state in infeasible)
    return {
        "limit_bytes": limit,
        "space_not_fitting": round(float((needed > limit).mean()), 4),
        "num_trials": len(log.states),
        "num_completed": sum(s.status is TrialStatus.COMPLETED for s in log.trials),
        "num_failed": sum(s.status is TrialStatus.FAILED for s in log.trials),
        "num_segments": num_segments,
        "num_segments_out_of_memory": in_vain,
        "wasted": round(in_vain / num_segments, 4),
        "num_held_back": len(infeasible) - in_vain,
        "end_reason": log.end_reason,
        "limits": [
            {key: value for key, value in each.items() if key != "minimum"}
            for each in limits_of(log)
        ],
        "told": limit_lines(log),
    }


def main() -> None:
    """Run every search that is not recorded yet."""
    share_cores()
    warnings.simplefilter("ignore")
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in JOBS:
        if name in found.get("searches", {}) or (sys.argv[1:] and name not in sys.argv[1:]):
            continue
        found["machine"] = f"{platform.machine()}, {os.cpu_count()} cores"
        found.setdefault("searches", {})[name] = search(name)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
        print(name, json.dumps(found["searches"][name]), flush=True)


if __name__ == "__main__":
    main()
