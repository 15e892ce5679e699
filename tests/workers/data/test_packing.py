"""Several examples in one sequence: nothing lost, nothing seen of each other."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autopeft.errors import ModelError
from autopeft.workers.data import collate
from autopeft.workers.data.packing import check_model_keeps_examples_apart, pack_examples
from autopeft.workers.data.tokenization import ragged
from autopeft.workers.dataset import EncodedSplit
from tests.workers import tiny_lm


def make_split(lengths: list[int]) -> EncodedSplit:
    """Return examples whose tokens are all different."""
    starts = np.concatenate([[0], np.cumsum(lengths)])
    ids = [np.arange(a, b) for a, b in pairwise(starts)]
    labels = [np.where(np.arange(len(x)) > 0, x, -100) for x in ids]
    fields = {"input_ids": ragged(ids, np.int32, 7), "labels": ragged(labels, np.int32, -100)}
    return EncodedSplit(fields=fields, labels=np.array(lengths, dtype=np.int64) - 1)


@given(st.lists(st.integers(2, 16), min_size=1, max_size=40))
def test_every_example_is_in_one_sequence_whole(lengths: list[int]) -> None:
    split = make_split(lengths)
    packed = pack_examples(split, 16)
    found = []
    for i in range(len(packed)):
        ids, labels, positions = (
            packed.fields[name].example(i) for name in ("input_ids", "labels", "position_ids")
        )
        starts = np.flatnonzero(positions == 0)
        for a, b in zip(starts, [*starts[1:], len(ids)], strict=True):
            found.append(ids[a:b].tolist())
            assert positions[a:b].tolist() == list(range(b - a))
            assert labels[a] == -100
        assert np.all((labels == ids) | (labels == -100))
    whole = [split.fields["input_ids"].example(i).tolist() for i in range(len(split))]

    assert sorted(found) == sorted(whole)
    assert packed.lengths.max() <= 16
    assert packed.labels.sum() == split.labels.sum()


def test_sequences_are_well_filled() -> None:
    lengths = np.random.default_rng(0).integers(2, 40, 500)
    packed = pack_examples(make_split(lengths.tolist()), 64)

    assert lengths.sum() / (64 * len(packed)) > 0.97


def test_a_packed_batch_has_positions_and_no_mask() -> None:
    packed = pack_examples(make_split([3, 2, 5]), 8)
    batch = collate(packed, np.arange(len(packed)), 7)

    assert set(batch) == {"input_ids", "labels", "position_ids"}
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2], [0, 1, 0, 0, 0, 0, 0, 0]]
    assert batch["input_ids"][1].tolist() == [3, 4, 7, 7, 7, 7, 7, 7]


def test_a_llama_keeps_examples_apart() -> None:
    check_model_keeps_examples_apart(tiny_lm.make_model(40), [5, 6, 7, 8, 9])


@pytest.mark.parametrize("ignores", [True, False])
def test_a_model_that_mixes_examples_or_takes_no_positions_is_refused(ignores: bool) -> None:
    llama = tiny_lm.make_model(40)

    class Ignorant(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = llama

        def forward(self, input_ids: Any, use_cache: bool, **others: Any) -> Any:
            if others and not ignores:
                raise TypeError("unexpected position_ids")
            return SimpleNamespace(logits=self.inner(input_ids, use_cache=use_cache).logits)

    with pytest.raises(ModelError, match="Ignorant does not keep examples apart"):
        check_model_keeps_examples_apart(Ignorant(), [5, 6, 7, 8, 9])
