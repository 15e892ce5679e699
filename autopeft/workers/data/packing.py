"""Several examples in one sequence, kept apart by their positions.

Positions start at 0 with each example. transformers makes attention block-diagonal where
positions tell so and neither an attention mask nor cached keys are given
(``masking_utils.find_packed_sequence_indices``); a model that does not go through it would let
examples see each other, which :func:`check_model_keeps_examples_apart` finds out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopeft.errors import ModelError
from autopeft.workers.data.batches import PACKED_BY
from autopeft.workers.data.tokenization import ragged
from autopeft.workers.dataset import EncodedSplit

#: Largest difference of a logit that rounding explains, relative to the largest logit.
_ROUNDING = 1e-3


def pack_examples(split: EncodedSplit, max_tokens: int) -> EncodedSplit:
    """Return sequences of at most ``max_tokens`` that hold every example once.

    Best fit, longest first: each example joins the sequence it fills up most. Depends on the
    lengths alone.

    Args:
        split: Examples with ragged ``input_ids`` and ``labels``, none longer than
            ``max_tokens``.
        max_tokens: Tokens of a sequence.
    """
    lengths = split.lengths
    bins = _bins(lengths, max_tokens)
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in (*split.fields, PACKED_BY)}
    for members in bins:
        for name, field in split.fields.items():
            columns[name].append(np.concatenate([field.example(i) for i in members]))
        positions = [np.arange(lengths[i]) for i in members]
        columns[PACKED_BY].append(np.concatenate(positions))
    fields = {
        name: ragged(columns[name], np.int32, split.fields[name].fill if name != PACKED_BY else 0)
        for name in columns
    }
    labels = np.array([split.labels[members].sum() for members in bins], dtype=np.int64)
    return EncodedSplit(fields=fields, labels=labels)


def _bins(lengths: NDArray[np.int64], capacity: int) -> list[list[int]]:
    # By the room left, which is at most ``capacity``: a search among few numbers, not all bins.
    by_room: dict[int, list[int]] = {}
    bins: list[list[int]] = []
    for i in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[i])
        room = next((r for r in range(length, capacity + 1) if by_room.get(r)), None)
        if room is None:
            place, room = len(bins), capacity
            bins.append([])
        else:
            place = by_room[room].pop()
        bins[place].append(i)
        by_room.setdefault(room - length, []).append(place)
    return bins


def check_model_keeps_examples_apart(model: Any, tokens: Sequence[int]) -> None:
    """Compare two examples in one sequence with each by itself.

    Args:
        model: A causal language model in evaluation mode.
        tokens: Some tokens it knows, at least 4.

    Raises:
        ModelError: examples that share a sequence see each other.
    """
    import torch

    device = next(model.parameters()).device
    half = len(tokens) // 2
    parts = [list(tokens[:half]), list(tokens[half:])]
    positions = [p for part in parts for p in range(len(part))]

    def logits(ids: list[int], **inputs: Any) -> torch.Tensor:
        batch = torch.tensor([ids], device=device)
        found: torch.Tensor = model(input_ids=batch, use_cache=False, **inputs).logits[0].float()
        return found

    try:
        with torch.inference_mode():
            packed = logits(
                [*parts[0], *parts[1]], position_ids=torch.tensor([positions], device=device)
            )
            alone = torch.cat([logits(part) for part in parts])
        tolerance = _ROUNDING * float(alone.abs().max())
        keeps_apart = float((packed - alone).abs().max()) <= tolerance
    except (TypeError, ValueError, RuntimeError, IndexError):
        keeps_apart = False
    if not keeps_apart:
        raise ModelError(
            f"{type(model).__name__} does not keep examples apart that share a sequence",
            hint="set training: {packing: false}; batches of similar length waste little, too",
        )
