"""Fast predictions of memory against probes, over random configurations of several spaces.

    python benchmarks/memory_fast/run.py

draws configurations of four presets on an encoder and a decoder made from configs, predicts all of
them, probes each, and writes errors and times to ``results.json``. Every pair of a model and a
preset is written as soon as it is done, and pairs that are there already are not run again.
Arguments keep the pairs whose names contain all of them.
"""

from __future__ import annotations

import json
import platform
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from autopeft.workers.openmp import share_cores

RESULTS = Path(__file__).parent / "results.json"
BATCH_SIZE = 8
TOKENS = 64
#: Configurations that are probed, by preset: 1,000 a model.
NUM_PROBED = {"default": 150, "lora": 100, "autopeft": 150, "everything": 600}
NUM_TIMED = 10_000
NUM_WORST = 5


def configs() -> dict[str, tuple[Any, str]]:
    """Return the config and the task of each model."""
    import transformers

    return {
        "bert": (
            transformers.BertConfig(
                num_labels=77,
                hidden_size=384,
                num_hidden_layers=6,
                num_attention_heads=12,
                intermediate_size=1536,
            ),
            "classification",
        ),
        "llama": (
            transformers.LlamaConfig(
                hidden_size=256,
                intermediate_size=688,
                num_hidden_layers=6,
                num_attention_heads=8,
                num_key_value_heads=4,
                vocab_size=4096,
            ),
            "causal-lm",
        ),
    }


def main(words: list[str]) -> None:
    share_cores()
    warnings.simplefilter("ignore")
    facts = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"pairs": {}}
    for model in configs():
        for preset in NUM_PROBED:
            name = f"{model}/{preset}"
            if name not in facts["pairs"] and all(word in name for word in words):
                facts["pairs"][name] = compare(model, preset)
                write(facts)


def write(facts: dict[str, Any]) -> None:
    """Write all pairs there are, and what they say together."""
    import torch
    import transformers

    pairs = facts["pairs"].values()
    facts["machine"] = platform.machine()
    facts["versions"] = {"torch": torch.__version__, "transformers": transformers.__version__}
    facts["configurations"] = sum(pair["configurations"] for pair in pairs)
    facts["within_two_percent"] = sum(pair["within_two_percent"] for pair in pairs)
    facts["worst_error"] = max(pair["worst_error"] for pair in pairs)
    RESULTS.write_text(json.dumps(facts, indent=1) + "\n")


def compare(model: str, preset: str) -> dict[str, Any]:
    """Predict and probe random configurations of one preset on one model."""
    import numpy as np

    from autopeft.search_spaces.space import load_space
    from autopeft.workers.memory import MemoryModel
    from autopeft.workers.shapes import shape_from_config

    config, task = configs()[model]
    config._name_or_path = model
    shape = shape_from_config(config, model, task)
    memory = MemoryModel(config, shape, batch_size=BATCH_SIZE, tokens=TOKENS, task=task)
    generator = np.random.default_rng(0)
    sample = load_space(preset, shape).sample(NUM_PROBED[preset], generator)

    seconds: dict[str, float] = {}
    with Timed(seconds, "fit"):
        predicted = memory.predict(sample)
    with Timed(seconds, "probes"):
        probed = np.array([memory.probe(chosen).total_bytes for chosen in sample])
    many = load_space(preset, shape).sample(NUM_TIMED, generator)
    with Timed(seconds, "first"):
        memory.predict(many)
    with Timed(seconds, "again"):
        memory.predict(many)

    errors = predicted / probed - 1
    worst = np.argsort(-np.abs(errors))[:NUM_WORST]
    row = {
        "configurations": len(sample),
        "median_error": round(float(np.median(np.abs(errors))), 5),
        "p95_error": round(float(np.quantile(np.abs(errors), 0.95)), 5),
        "worst_error": round(float(np.abs(errors).max()), 5),
        "within_two_percent": int((np.abs(errors) <= 0.02).sum()),
        "fit_seconds": round(seconds["fit"], 1),
        "probe_seconds_each": round(seconds["probes"] / len(sample), 4),
        "timed": len(many),
        "first_milliseconds_each": round(1e3 * seconds["first"] / len(many), 3),
        "milliseconds_each": round(1e3 * seconds["again"] / len(many), 3),
        "worst": [
            {"error": round(float(errors[k]), 5), "configuration": str(sample[k])} for k in worst
        ],
    }
    row["times_faster"] = round(1e3 * row["probe_seconds_each"] / row["first_milliseconds_each"])
    print(f"{model}/{preset}", {key: row[key] for key in row if key != "worst"})
    return row


class Timed:
    """Note the CPU seconds of a ``with`` block under a name."""

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self._seconds, self._name = seconds, name

    def __enter__(self) -> None:
        self._start = time.process_time()

    def __exit__(self, *_: object) -> None:
        self._seconds[self._name] = time.process_time() - self._start


if __name__ == "__main__":
    main(sys.argv[1:])
