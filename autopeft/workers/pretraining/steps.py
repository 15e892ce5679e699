"""The steps of a build: read, tokenise, train, measure; each is kept for a build that goes on."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autopeft.workers.pretraining.corpus import read_corpus
from autopeft.workers.pretraining.progress import BuildProgress, OnProgress
from autopeft.workers.pretraining.recipe import Recipe
from autopeft.workers.pretraining.tokenizer import END_OF_TEXT, train_tokenizer
from autopeft.workers.pretraining.training import make_model, mean_loss, pretrain

TOKENS = "tokens.npz"
FACTS = "corpus.json"
TOKENIZER = "tokenizer"
_PACKAGES = ("numpy", "tokenizers", "torch", "transformers")


def build_model(
    recipe: Recipe, folder: Path, result: Path, on_progress: OnProgress
) -> dict[str, Any]:
    """Build a model and write it to ``result`` as ``save_pretrained`` does.

    Args:
        recipe: What to build.
        folder: Keeps tokens and checkpoints; what it holds of an earlier try is used.
        result: To write; must not exist.
        on_progress: Told how far it is.

    Returns:
        What the card says, but for the hashes of the files.
    """
    started = time.monotonic()
    facts, tokens, tokenizer = _tokens(recipe, folder, on_progress)
    read_seconds = time.monotonic() - started
    model = make_model(recipe, tokenizer)

    def on_step(step: int, seconds_left: float | None) -> None:
        on_progress(
            BuildProgress(
                stage="training", done=step, total=recipe.steps, seconds_left=seconds_left
            )
        )

    with _all_cores() as num_threads:
        trained = pretrain(
            model, tokens["train"], tokens["held_out"], recipe, folder, on_step=on_step
        )
        on_progress(BuildProgress(stage="evaluating"))
        final = tokens["held_out"][: recipe.num_final_sequences]
        loss = mean_loss(model, final, recipe.batch_size)
    model.eval()
    with _no_bars():
        model.save_pretrained(result)
    tokenizer.save_pretrained(result)
    return {
        "recipe": recipe.to_json(),
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "held_out_loss": loss,
        "held_out_perplexity": math.exp(loss),
        "num_held_out_tokens": int(final.size),
        "num_trained_tokens": recipe.steps * recipe.batch_size * recipe.num_tokens,
        "train_seconds": trained["seconds"],
        "train_cpu_seconds": trained["cpu_seconds"],
        "read_seconds": facts.get("seconds", read_seconds),
        "num_threads": num_threads,
        "curve": trained["curve"],
        "corpus": facts,
        "packages": {name: version(name) for name in _PACKAGES},
        "python": platform.python_version(),
    }


def _tokens(
    recipe: Recipe, folder: Path, on_progress: OnProgress
) -> tuple[dict[str, Any], dict[str, NDArray[np.int32]], Any]:
    """Return facts, sequences and tokenizer: those of an earlier try, or new ones."""
    from transformers import PreTrainedTokenizerFast

    path = folder / FACTS
    if path.is_file():  # written last
        with np.load(folder / TOKENS, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in ("train", "held_out")}
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / TOKENIZER)
        return json.loads(path.read_text(encoding="utf-8")), arrays, tokenizer
    started = time.monotonic()
    total = len(recipe.libraries)
    corpus = read_corpus(
        recipe.libraries,
        seed=recipe.seed,
        num_per_library=recipe.num_per_library,
        on_library=lambda library, number: on_progress(
            BuildProgress(stage=f"reading {library}", done=number, total=total)
        ),
    )
    on_progress(BuildProgress(stage="tokenising"))
    tokenizer = train_tokenizer(corpus.train, recipe.vocab_size, recipe.max_positions)
    arrays = {
        "train": _sequences(corpus.train, tokenizer, recipe.num_tokens),
        "held_out": _sequences(corpus.held_out, tokenizer, recipe.num_tokens),
    }
    np.savez(folder / TOKENS, allow_pickle=False, **arrays)
    tokenizer.save_pretrained(folder / TOKENIZER)
    everything = hashlib.sha256()
    for text in (*corpus.train, *corpus.held_out):
        everything.update(text.encode() + b"\0")
    facts = {
        "versions": corpus.versions,
        "missing": list(corpus.missing),
        "num_documents": {"train": len(corpus.train), "held_out": len(corpus.held_out)},
        "num_tokens": {name: int(array.size) for name, array in arrays.items()},
        "sha256": everything.hexdigest(),
        "seconds": time.monotonic() - started,
    }
    path.write_text(json.dumps(facts), encoding="utf-8")
    return facts, arrays, tokenizer


def _sequences(texts: list[str], tokenizer: Any, num_tokens: int) -> NDArray[np.int32]:
    """Return all texts, each with its end, as rows of equal length; the rest is left out."""
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    flat: list[int] = []
    for encoding in tokenizer.backend_tokenizer.encode_batch(texts):
        flat += [*encoding.ids, end]
    num_rows = len(flat) // num_tokens
    assert num_rows > 0, f"{len(flat)} tokens make no sequence of {num_tokens}"
    return np.array(flat[: num_rows * num_tokens], dtype=np.int32).reshape(num_rows, num_tokens)


@contextmanager
def _all_cores() -> Iterator[int]:
    """Let torch use every core, and put its number of threads back afterwards."""
    before = torch.get_num_threads()
    wanted = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    torch.set_num_threads(wanted)
    try:
        yield wanted
    finally:
        torch.set_num_threads(before)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep transformers' progress bars off the screen, and put them back afterwards."""
    from transformers.utils import logging

    had_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if had_bars:
            logging.enable_progress_bar()
