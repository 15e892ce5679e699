"""Predicted memory of a training step against the tensors of a real one, on the CPU.

    python benchmarks/memory_accounting/run.py

takes one optimiser step of every combination of seven methods, three models made from configs,
with and without gradient checkpointing, in float32 and in bfloat16 under autocast, counts what
is alive at its worst moment, and writes it beside the prediction to ``results.json``. No weights
are downloaded. Arguments keep the combinations whose names contain all of them, and then nothing
is written.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
import platform
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from autopeft.workers.openmp import share_cores

RESULTS = Path(__file__).parent / "results.json"
BATCH_SIZE = 8
TOKENS = 64
VOCABULARY = 2000
PRECISIONS = ("float32", "bfloat16")
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("lora", {}),
    "dora": ("lora", {"dora": True}),
    "ia3": ("ia3", {}),
    "vera": ("vera", {}),
    "serial-adapter": ("serial-adapter", {}),
    "prompt-tuning": ("prompt-tuning", {}),
    "last-layers": ("last-layers", {}),
}
_WIDTHS = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 384,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}


def configs() -> dict[str, tuple[Any, str]]:
    """Return the config and the task of each model."""
    import transformers

    return {
        "bert": (transformers.BertConfig(**_WIDTHS, num_labels=3), "classification"),
        "llama": (
            transformers.LlamaConfig(
                **_WIDTHS, num_key_value_heads=2, bos_token_id=1, eos_token_id=2
            ),
            "causal-lm",
        ),
        "t5": (
            transformers.T5Config(
                vocab_size=VOCABULARY,
                d_model=128,
                d_kv=32,
                d_ff=384,
                num_layers=3,
                num_decoder_layers=3,
                num_heads=4,
                pad_token_id=0,
                eos_token_id=1,
                decoder_start_token_id=0,
            ),
            "seq2seq-lm",
        ),
    }


def make_batch(task: str) -> dict[str, Any]:
    """Return ``b x t`` tokens of which all but one row are padded, as in training."""
    import numpy as np

    generator = np.random.default_rng(0)
    tokens = generator.integers(3, VOCABULARY, (BATCH_SIZE, TOKENS)).astype(np.int64)
    mask = np.ones_like(tokens)
    for row in range(1, BATCH_SIZE):
        mask[row, TOKENS - 3 * row :] = 0
    tokens[mask == 0] = 0
    batch = {"input_ids": tokens, "attention_mask": mask}
    if task == "classification":
        return {**batch, "labels": generator.integers(0, 3, BATCH_SIZE).astype(np.int64)}
    # Every position is trained on: what a prediction takes for granted.
    return {**batch, "labels": tokens.copy()}


def main(words: list[str]) -> None:
    share_cores()
    warnings.simplefilter("ignore")
    rows = [
        measure(*case)
        for case in itertools.product(configs(), METHODS, (False, True), PRECISIONS)
        if all(word in name_of(*case) for word in words)
    ]
    errors = [abs(row["error"]) for row in rows]
    summary = {
        "configurations": len(rows),
        "median_error": statistics.median(errors),
        "worst_error": max(errors),
        "median_seconds_measured": statistics.median(r["seconds_measured"] for r in rows),
    }
    print(json.dumps(summary, indent=2))
    if not words:
        import torch
        import transformers

        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        facts = {"machine": platform.machine(), "versions": versions, **summary, "rows": rows}
        RESULTS.write_text(json.dumps(facts, indent=1) + "\n")


def name_of(model: str, method: str, checkpointing: bool, precision: str) -> str:
    """Return a combination in one word."""
    return "/".join([model, method, "checkpointing" if checkpointing else "plain", precision])


def measure(model: str, method: str, checkpointing: bool, precision: str) -> dict[str, Any]:
    """Predict and measure one combination."""
    import torch

    from autopeft.search_spaces.configuration import Configuration, Module
    from autopeft.search_spaces.method import get_method
    from autopeft.workers.gradient_checkpointing import checkpoint_layers
    from autopeft.workers.hooks import hooks_of
    from autopeft.workers.injection import inject
    from autopeft.workers.memory import MemoryModel, step_dtypes
    from autopeft.workers.memory.inputs import inputs_of
    from autopeft.workers.memory.measuring import accounted_bytes
    from autopeft.workers.models import auto_class
    from autopeft.workers.optimizers import make_optimizer
    from autopeft.workers.settings import ModelSettings, TrainingSettings
    from autopeft.workers.shapes import shape_from_config
    from autopeft.workers.tasks.base import TASKS
    from autopeft.workers.training import to_device

    config, task_name = configs()[model]
    shape = dataclasses.replace(
        shape_from_config(config, model, task=task_name), uses_gradient_checkpointing=checkpointing
    )
    name, changes = METHODS[method]
    found = get_method(name)
    settings = {d.name: d.default for d in found.dimensions(shape)} | changes
    layers = tuple(range(shape.num_layers))
    configuration = Configuration(
        modules=(Module.of(name, layers, **settings),), learning_rate=1e-3
    )
    batch = make_batch(task_name)
    training = TrainingSettings(
        batch_size=BATCH_SIZE,
        max_tokens=TOKENS,
        precision=precision,
        gradient_checkpointing=checkpointing,
    )

    torch.manual_seed(0)
    base = auto_class(task_name).from_config(configs()[model][0]).requires_grad_(False)
    injected = inject(base, configuration, shape)
    if checkpointing:
        checkpoint_layers(injected)
    hooks = hooks_of(configuration)
    optimizer = make_optimizer(injected, 1e-3, training, hooks)
    started = time.monotonic()
    measured = accounted_bytes(
        injected,
        optimizer,
        [to_device(batch, torch.device("cpu"))],
        TASKS.get(task_name)(),
        training,
        hooks,
    )
    seconds_measured = time.monotonic() - started
    del injected, base, optimizer
    gc.collect()

    memory = MemoryModel(
        configs()[model][0],
        shape,
        batch_size=BATCH_SIZE,
        tokens=TOKENS,
        task=task_name,
        inputs=inputs_of(batch, TASKS.get(task_name)()),
        **step_dtypes(config, ModelSettings(name=model), precision),
    )
    estimate = memory.probe(configuration)
    row = {
        "name": name_of(model, method, checkpointing, precision),
        "configuration": str(configuration),
        "predicted_bytes": estimate.total_bytes,
        "measured_bytes": measured,
        "error": round(estimate.total_bytes / measured - 1, 5),
        "phase": getattr(estimate, "phase", None),
        "is_approximate": estimate.is_approximate,
        "seconds_measured": round(seconds_measured, 3),
    }
    print(f"{row['name']:45} {estimate.total_bytes:>12,} {measured:>12,} {row['error']:+.2%}")
    return row


if __name__ == "__main__":
    main(sys.argv[1:])
