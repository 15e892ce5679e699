"""A job file over a model of a few thousand weights: everything is real but the size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests.workers.tiny import CLASSES, make_rows, write_model

STEPS = 8


def write_tiny_job(folder: Path, **changes: Any) -> Path:
    """Write model, data and job file into ``folder`` and return the job file."""
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder / "tiny-bert")
    for seed, (name, num_rows) in enumerate({"train": 48, "validation": 30, "test": 24}.items()):
        rows = make_rows(num_rows, seed)
        lines = [
            json.dumps({"text": text, "label": CLASSES[label]})
            for text, label in zip(rows.text, rows.label, strict=True)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    job: dict[str, Any] = {
        "name": "tiny",
        "model": "tiny-bert",
        "data": {name: f"{name}.jsonl" for name in ("train", "validation", "test")},
        "training": {"batch_size": 8, "max_tokens": 12, "steps": STEPS},
        "budget": {"trials": 5},
        "workers": {"executor": "inline", "cpus": 1},
        "output": str(folder / "run"),
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**job, **changes}))
    return path
