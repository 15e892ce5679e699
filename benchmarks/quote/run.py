"""Does the quote for a search agree with what the search then costs?

    AUTOPEFT_DATA=~/data python benchmarks/quote/run.py

quotes five small searches on real data, runs each of them, and writes both beside each other,
with the load of the machine. One search after the other, each in a process of its own; one that
is in results.json already is not run again, so an interrupted benchmark goes on.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
DATA = os.environ.get("AUTOPEFT_DATA", "")


def files(name: str, train: int, validation: int) -> dict[str, Any]:
    """Return a data set of AUTOPEFT_DATA, cut to a number of rows."""
    splits = {split: f"{DATA}/{name}/{split}.jsonl" for split in ("train", "validation", "test")}
    return {**splits, "limit": {"train": train, "validation": validation}}


#: Models, tasks, spaces, stoppers and executors all differ.
JOBS: dict[str, dict[str, Any]] = {
    "quickstart": {
        "model": "builtin:minilm",
        "data": {"name": "builtin:docstrings", "limit": {"train": 800, "validation": 160}},
        "training": {"batch_size": 16, "max_tokens": 32, "steps": 32},
        "budget": {"trials": 14},
    },
    "subj-lora": {
        "model": "builtin:minilm",
        "data": files("subj", 800, 200),
        "space": "lora",
        "training": {"batch_size": 16, "max_tokens": 48, "steps": 24},
        "budget": {"trials": 12},
        "workers": {"executor": "inline"},
    },
    "tiny-lm": {
        "model": "builtin:docstring-lm-tiny",
        "data": {"name": "builtin:signatures", "limit": {"train": 600, "validation": 120}},
        "task": "causal-lm",
        "training": {"batch_size": 8, "max_tokens": 64, "steps": 48},
        "budget": {"trials": 16},
    },
    "banking77-steps": {
        "model": "builtin:minilm",
        "data": files("banking77", 800, 160),
        "space": "mixed",
        "training": {"batch_size": 16, "max_tokens": 32, "steps": 32},
        "budget": {"steps": 256},
        "workers": {"executor": "inline"},
    },
    "stsb-to-the-end": {
        "model": "builtin:minilm",
        "data": files("stsb", 600, 160),
        "space": {"methods": {"ia3": None, "beft": None, "lora": {"rank": [2, 4, 8]}}},
        "training": {"batch_size": 16, "max_tokens": 48, "steps": 20},
        "budget": {"trials": 8},
        "stopper": "none",
        "workers": {"executor": "inline"},
    },
}


def measure(name: str) -> dict[str, Any]:
    """Quote one search, run it, and return both."""
    from autopeft.service.job_spec import parse_job
    from autopeft.service.observer import SilentObserver
    from autopeft.service.quote import quote_ahead
    from autopeft.service.running import run_job

    with tempfile.TemporaryDirectory(prefix="autopeft-quote-") as folder:
        output = Path(folder) / "run"
        spec = parse_job({**JOBS[name], "output": str(output)}, base=Path.cwd(), name=name)
        load_before = os.getloadavg()[0]
        started = time.monotonic()
        told = quote_ahead(spec, SilentObserver())
        quoting = time.monotonic() - started
        load_between = os.getloadavg()[0]
        started = time.monotonic()
        log = run_job(spec, output, observer=SilentObserver())
        searching = time.monotonic() - started
    real = log.busy_seconds / 3600
    return {
        "name": name,
        "quote": {
            key: round(value, 6) if isinstance(value, float) else value
            for key, value in told.to_json().items()
        },
        "real_hours": round(real, 6),
        "real_steps": log.total_steps,
        "num_trials": len(log.states),
        "num_completed": sum(state.step >= spec.training.steps for state in log.trials),
        "ratio": round(told.hours / real, 3),
        "is_inside": told.low <= real <= told.high,
        "quoting_seconds": round(quoting, 1),
        "search_seconds": round(searching, 1),
        "load": [round(load, 2) for load in (load_before, load_between, os.getloadavg()[0])],
    }


def main() -> None:
    """Measure every search that was not measured yet."""
    if len(sys.argv) > 1:
        from autopeft.workers.openmp import share_cores

        share_cores()
        print(json.dumps(measure(sys.argv[1])))
        return
    found = json.loads(RESULTS.read_text())["searches"] if RESULTS.exists() else []
    for name in JOBS:
        if any(row["name"] == name for row in found):
            continue
        done = subprocess.run(
            [sys.executable, __file__, name], stdout=subprocess.PIPE, text=True, check=True
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
        import torch

        result = {
            "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}",
            "torch": torch.__version__,
            "searches": found,
        }
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")
        row = found[-1]
        print(
            f"{name}: quoted {row['quote']['hours']:.4f}, real {row['real_hours']:.4f} hours, "
            f"ratio {row['ratio']}, load {row['load']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
