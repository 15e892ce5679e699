"""Predict the peak memory of published training runs, and compare.

    AUTOPEFT_DATA=... python benchmarks/memory/run.py [--tokens N]

The runs are those of PEFT's own comparison of methods: Llama-3.2-3B in bfloat16, adapters in
float32, batches of 4, on one GPU. Nothing is known of the length of their batches but that it
varies up to a limit of 768; one length is therefore fitted for all runs together, by least
squares of the relative error, and nothing else is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from transformers import LlamaConfig

from autopeft.records import ModelShape
from autopeft.workers.foreign_adapters import build_described
from autopeft.workers.memory import MemoryModel
from autopeft.workers.shapes import shape_from_config

BATCH_SIZE = 4
#: Lengths between which the fitted one is looked for.
LENGTHS = (640, 768)
GIB = 2**30

Run = Mapping[str, Any]


def published_runs(folder: Path) -> tuple[list[Run], Any, ModelShape]:
    """Return the runs, and config and shape of their model."""
    runs = [json.loads(line) for line in (folder / "runs.jsonl").read_text("utf-8").splitlines()]
    about = json.loads((folder / "meta.json").read_text("utf-8"))["base_model_shape"]
    name = about.pop("model")
    config = LlamaConfig(**about)
    config._name_or_path = name
    return runs, config, shape_from_config(config, name, "causal-lm")


def predicted(run: Run, config: Any, shape: ModelShape, tokens: int) -> dict[str, Any]:
    """Return what is predicted of a run."""
    begun = time.perf_counter()
    optimizer = "lora-fa" if run["train_config"]["optimizer_type"] == "lora-fa" else "adamw"
    memory = MemoryModel(
        config,
        shape,
        batch_size=BATCH_SIZE,
        tokens=tokens,
        task="causal-lm",
        dtype=torch.bfloat16,
        device="cuda",
        optimizer=optimizer,
        loss_of="model",
        in_float32=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what PEFT says while it builds
        _, model = build_described(memory, shape, run["peft_config"] or None)
        estimate = memory.account_for(model)
    return {
        "num_trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "predicted_bytes": estimate.total_bytes,
        "phase": estimate.phase,
        "components": {k: v for k, v in estimate.components.items() if k != "total"},
        "seconds": round(time.perf_counter() - begun, 2),
    }


def fitted_length(runs: Sequence[Run], config: Any, shape: ModelShape) -> int:
    """Return the length that makes the squares of the relative errors smallest.

    Predictions are made at two lengths and taken as linear between them.
    """
    published = np.array([run["accelerator_memory_max_bytes"] for run in runs], dtype=np.float64)
    ends = [
        np.array([predicted(run, config, shape, n)["predicted_bytes"] for run in runs]) / published
        for n in LENGTHS
    ]
    slope = (ends[1] - ends[0]) / (LENGTHS[1] - LENGTHS[0])
    rest = 1.0 - ends[0]
    return round(LENGTHS[0] + float(slope @ rest / (slope @ slope)))


def main() -> None:
    """Run the comparison and write ``results.json`` beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, help="length of the batches; fitted by default")
    arguments = parser.parse_args()
    data = os.environ.get("AUTOPEFT_DATA")
    if not data:
        raise SystemExit("set AUTOPEFT_DATA to the folder that holds peft_method_comparison")
    runs, config, shape = published_runs(Path(data) / "peft_method_comparison")
    tokens = arguments.tokens or fitted_length(runs, config, shape)
    rows = []
    for run in runs:
        found = predicted(run, config, shape, tokens)
        published = run["accelerator_memory_max_bytes"]
        row = {
            "run": run["experiment"],
            "published_bytes": published,
            "error": round(found["predicted_bytes"] / published - 1.0, 4),
            "counts_equal": found["num_trainable_parameters"] == run["num_trainable_params"],
            **found,
        }
        rows.append(row)
        print(
            f"{row['run']:58}{published / GIB:7.2f}{row['predicted_bytes'] / GIB:7.2f}"
            f"{100 * row['error']:+7.1f}%  {row['phase']}",
            flush=True,
        )
    errors = sorted((abs(row["error"]), row["run"]) for row in rows)
    rank = spearmanr(
        [row["predicted_bytes"] for row in rows], [row["published_bytes"] for row in rows]
    ).statistic
    summary = {
        "tokens": tokens,
        "runs": len(rows),
        "median_error": statistics.median(error for error, _ in errors),
        "worst": [{"run": name, "error": error} for error, name in errors[:-6:-1]],
        "spearman": round(float(rank), 4),
        "counts_all_equal": all(row["counts_equal"] for row in rows),
        "seconds_of_a_probe": {
            "median": statistics.median(row["seconds"] for row in rows),
            "most": max(row["seconds"] for row in rows),
        },
    }
    print(json.dumps(summary, indent=1))
    about = {
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "load_average": [round(each, 1) for each in os.getloadavg()],
    }
    results = {"summary": summary, "about": about, "runs": rows}
    path = Path(__file__).with_name("results.json")
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
