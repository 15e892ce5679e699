"""Pretrain a small causal language model, resumable at any moment and repeatable.

The order of the sequences and the learning rate are functions of (seed, step), so a build that
was stopped and goes on from its last checkpoint ends at the same weights as one that was not,
on equal numbers of threads.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from autopeft.workers.pretraining.muon import Muon
from autopeft.workers.pretraining.recipe import Recipe
from autopeft.workers.pretraining.tokenizer import END_OF_TEXT, PAD, TURN_END

#: Of the peak learning rate, at the last step.
FINAL_RATE = 0.1
BETAS = (0.9, 0.95)
MAX_GRAD_NORM = 1.0
CHECKPOINT = "checkpoint.safetensors"
STATE = "checkpoint.json"


def make_model(recipe: Recipe, tokenizer: Any) -> Any:
    """Return a Llama with random weights drawn from the recipe's seed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    ids = tokenizer.convert_tokens_to_ids
    config = LlamaConfig(
        vocab_size=recipe.vocab_size,
        hidden_size=recipe.hidden_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        num_key_value_heads=recipe.num_key_value_heads,
        intermediate_size=recipe.intermediate_size,
        max_position_embeddings=recipe.max_positions,
        tie_word_embeddings=True,
        bos_token_id=ids(END_OF_TEXT),
        eos_token_id=ids(END_OF_TEXT),
        pad_token_id=ids(PAD),
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = LlamaForCausalLM(config)
    # A chat ends its turn with a token of its own.
    model.generation_config.eos_token_id = [ids(END_OF_TEXT), ids(TURN_END)]
    return model


def pretrain(
    model: Any,
    train: NDArray[np.int32],
    held_out: NDArray[np.int32],
    recipe: Recipe,
    folder: Path,
    *,
    on_step: Callable[[int, float | None], None] = lambda step, seconds_left: None,
) -> dict[str, Any]:
    """Train ``model`` in place to the recipe's last step, from a checkpoint where there is one.

    Args:
        model: As :func:`make_model` returns it.
        train: ``n x num_tokens`` token numbers.
        held_out: ``m x num_tokens``.
        recipe: How to train.
        folder: Where checkpoints are kept.
        on_step: Told the steps done, and the seconds left as far as they can be known.

    Returns:
        ``seconds`` and ``cpu_seconds`` of training over all runs, and the ``curve``: one entry
        a point, with ``step``, ``tokens``, ``train_loss`` (mean since the point before),
        ``held_out_loss`` and ``seconds``; losses in nats per token.
    """
    optimizers = _optimizers(model, recipe)
    state = _load(model, optimizers, folder)
    before, cpu_before = float(state["seconds"]), float(state["cpu_seconds"])
    cpu_started = time.process_time()
    started, first = time.monotonic(), int(state["step"])
    points = held_out[: recipe.num_evaluation_sequences]
    model.train()
    for step in range(first, recipe.steps):
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = recipe.learning_rate * rate_factor(step, recipe)
        rows = sequence_numbers(len(train), recipe, step)
        loss = next_token_loss(model, torch.from_numpy(train[rows].astype(np.int64)))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        state["losses"].append(loss.item())
        state["step"] = done = step + 1
        is_last = done == recipe.steps
        if done % recipe.evaluation_steps == 0 or is_last:
            state["curve"].append(
                {
                    "step": done,
                    "tokens": done * recipe.batch_size * recipe.num_tokens,
                    "train_loss": math.fsum(state["losses"]) / len(state["losses"]),
                    "held_out_loss": mean_loss(model, points, recipe.batch_size),
                    "seconds": before + time.monotonic() - started,
                }
            )
            state["losses"] = []
        state["seconds"] = before + time.monotonic() - started
        state["cpu_seconds"] = cpu_before + time.process_time() - cpu_started
        if done % recipe.checkpoint_steps == 0 or is_last:
            _save(model, optimizers, state, folder)
        each = (time.monotonic() - started) / (done - first)
        on_step(done, each * (recipe.steps - done))
    return {name: state[name] for name in ("seconds", "cpu_seconds", "curve")}


def rate_factor(step: int, recipe: Recipe) -> float:
    """Return the learning rate of a step as a fraction of the peak."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return FINAL_RATE + (1.0 - FINAL_RATE) * 0.5 * (1.0 + math.cos(math.pi * progress))


def sequence_numbers(num_sequences: int, recipe: Recipe, step: int) -> NDArray[np.int64]:
    """Return the sequences of a step: each once in an epoch, in an order of its own."""
    first = step * recipe.batch_size
    chosen = []
    for position in range(first, first + recipe.batch_size):
        epoch, place = divmod(position, num_sequences)
        chosen.append(_order(num_sequences, recipe.seed, epoch)[place])
    return np.array(chosen, dtype=np.int64)


@lru_cache(maxsize=2)
def _order(num_sequences: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(num_sequences)


def next_token_loss(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of every token but the first, in nats."""
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), tokens[:, 1:].reshape(-1)
    )


def mean_loss(model: Any, sequences: NDArray[np.int32], batch_size: int) -> float:
    """Return the mean loss over sequences of equal length, in evaluation mode."""
    model.eval()
    losses = []
    with torch.inference_mode():
        for start in range(0, len(sequences), batch_size):
            batch = sequences[start : start + batch_size].astype(np.int64)
            losses.append(len(batch) * next_token_loss(model, torch.from_numpy(batch)).item())
    model.train()
    return math.fsum(losses) / max(1, len(sequences))


def _optimizers(model: Any, recipe: Recipe) -> tuple[torch.optim.Optimizer, ...]:
    """Return Muon for the matrices of the layers, AdamW for embeddings and normalisations."""
    embedding = model.get_input_embeddings().weight
    parameters = list(model.parameters())
    hidden = [p for p in parameters if p.ndim == 2 and p is not embedding]
    others = [p for p in parameters if p.ndim < 2 or p is embedding]
    return (
        Muon(hidden, lr=recipe.learning_rate, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(
            others, lr=recipe.learning_rate, betas=BETAS, weight_decay=0.0, fused=True
        ),
    )


def _state_of(
    parameter: torch.nn.Parameter, optimizers: tuple[torch.optim.Optimizer, ...]
) -> dict[str, torch.Tensor]:
    """Return what the optimiser that owns a parameter keeps for it."""
    owned = (o for o in optimizers if any(parameter is p for p in o.param_groups[0]["params"]))
    state: dict[str, torch.Tensor] = next(owned).state[parameter]
    return state


def _save(
    model: Any,
    optimizers: tuple[torch.optim.Optimizer, ...],
    state: dict[str, Any],
    folder: Path,
) -> None:
    """Write weights, moments and state; the state names the file, so that both change at once."""
    tensors = {f"model:{name}": p.detach() for name, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        for moment, value in _state_of(parameter, optimizers).items():
            tensors[f"{moment}:{name}"] = value
    name = f"{state['step']:06d}-{CHECKPOINT}"
    save_file(tensors, folder / f".{name}")
    (folder / f".{name}").rename(folder / name)
    writing = folder / f".{STATE}"
    writing.write_text(json.dumps({**state, "file": name}), encoding="utf-8")
    writing.rename(folder / STATE)
    for path in folder.glob(f"*-{CHECKPOINT}"):
        if path.name != name:
            path.unlink()


def _load(
    model: Any, optimizers: tuple[torch.optim.Optimizer, ...], folder: Path
) -> dict[str, Any]:
    """Put a checkpoint into model and optimisers; return its state, or that of a start."""
    try:
        state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
        tensors = load_file(folder / state.pop("file"))
    except (OSError, ValueError, KeyError, SafetensorError):
        return {"step": 0, "seconds": 0.0, "cpu_seconds": 0.0, "losses": [], "curve": []}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model:{name}"])
            _state_of(parameter, optimizers).update(
                {
                    key.partition(":")[0]: value
                    for key, value in tensors.items()
                    if key.partition(":")[2] == name and not key.startswith("model:")
                }
            )
    return state
