"""Batches: which rows when, and how they are padded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from autopeft.workers.data.batches import (
    CHUNK_STEPS,
    batch_indices,
    collate,
    evaluation_batches,
)
from autopeft.workers.dataset import EncodedSplit, Field


def ragged(lengths: list[int], *, with_types: bool = True) -> EncodedSplit:
    """Return examples of these lengths; every token is different, and none is 0."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    total = int(offsets[-1])
    fields = {"input_ids": Field(values=np.arange(1, total + 1, dtype=np.int32), offsets=offsets)}
    if with_types:
        fields["token_type_ids"] = Field(values=np.ones(total, dtype=np.int8), offsets=offsets)
    return EncodedSplit(fields=fields, labels=np.arange(len(lengths), dtype=np.int64))


def some_lengths(num_rows: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(3, 60, num_rows)


@given(
    num_rows=st.integers(1, 200),
    batch_size=st.integers(1, 12),
    seed=st.integers(0, 3),
    num_chunks=st.integers(1, 4),
)
def test_whole_chunks_visit_every_row_of_an_epoch_before_any_comes_again(
    num_rows: int, batch_size: int, seed: int, num_chunks: int
) -> None:
    lengths = some_lengths(num_rows)
    steps = range(num_chunks * CHUNK_STEPS)
    visited = np.concatenate([batch_indices(lengths, batch_size, seed, step) for step in steps])

    counts = np.bincount(visited, minlength=num_rows)

    assert len(visited) == len(steps) * batch_size
    assert counts.max() - counts.min() <= 1


def test_rows_of_similar_length_share_a_batch() -> None:
    lengths = some_lengths(1000)
    spread = [np.ptp(lengths[batch_indices(lengths, 16, 0, step)]) for step in range(48)]

    assert np.mean(spread) < 8 < np.ptp(lengths)


def test_short_and_long_batches_are_mixed() -> None:
    lengths = some_lengths(1000)
    means = [lengths[batch_indices(lengths, 16, 0, step)].mean() for step in range(CHUNK_STEPS)]

    assert means != sorted(means)
    assert means != sorted(means, reverse=True)


def test_a_step_depends_on_seed_and_step_alone() -> None:
    lengths = some_lengths(100)
    late = batch_indices(lengths, 8, 5, 70)
    for step in range(70):
        batch_indices(lengths, 8, 5, step)
    assert np.array_equal(late, batch_indices(lengths, 8, 5, 70))
    assert not np.array_equal(late, batch_indices(lengths, 8, 6, 70))
    assert not np.array_equal(batch_indices(lengths, 100, 5, 0), batch_indices(lengths, 100, 5, 1))


def test_the_order_of_rows_is_what_it_was_in_earlier_releases() -> None:
    lengths = np.arange(10)
    assert batch_indices(lengths, 6, 0, 0).tolist() == [0, 0, 0, 0, 1, 1]
    assert batch_indices(lengths, 6, 0, 1).tolist() == [3, 3, 4, 4, 4, 4]


@pytest.mark.parametrize("arguments", [(0, 1, 0, 0), (1, 0, 0, 0), (1, 1, -1, 0), (1, 1, 0, -1)])
def test_arguments_out_of_range_are_refused(arguments: tuple[int, int, int, int]) -> None:
    num_rows, *others = arguments
    with pytest.raises(ValueError, match="expected at least one row"):
        batch_indices(some_lengths(num_rows), *others)


@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=10),
    multiple=st.sampled_from([1, 8, 16]),
    seed=st.integers(0, 3),
)
def test_a_batch_holds_each_row_and_padding_after_it(
    lengths: list[int], multiple: int, seed: int
) -> None:
    split = ragged(lengths)
    indices = np.random.default_rng(seed).integers(0, len(lengths), 4)
    batch = collate(split, indices, pad_token_id=0, pad_to_multiple=multiple)
    width = batch["input_ids"].shape[1]
    longest = max(lengths[i] for i in indices)
    assert width % multiple == 0
    assert longest <= width < longest + multiple
    for row, i in enumerate(indices):
        tokens = split.fields["input_ids"].example(i)
        padding = [0] * (width - len(tokens))
        assert batch["input_ids"][row].tolist() == tokens.tolist() + padding
        assert batch["attention_mask"][row].tolist() == [1] * len(tokens) + padding
        assert batch["token_type_ids"][row].tolist() == [1] * len(tokens) + padding
    assert np.array_equal(batch["labels"], indices)
    assert {batch[name].dtype for name in batch} == {np.dtype(np.int64)}


def test_the_padding_token_fills_token_ids_alone() -> None:
    batch = collate(ragged([2, 4], with_types=False), np.array([0]), 7, pad_to_multiple=4)
    assert batch["input_ids"].tolist() == [[1, 2, 7, 7]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0]]
    assert "token_type_ids" not in batch


def test_arrays_can_be_written_to_where_the_split_cannot() -> None:
    split = ragged([3, 2])
    split.labels.setflags(write=False)
    split.fields["input_ids"].values.setflags(write=False)
    batch = collate(split, np.array([1, 0]), 0)
    assert all(array.flags.writeable for array in batch.values())


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=30), batch_size=st.integers(1, 12))
def test_evaluation_visits_each_row_once_longest_first(lengths: list[int], batch_size: int) -> None:
    split = ragged(lengths)
    batches = list(evaluation_batches(split, batch_size))
    order = np.concatenate(batches)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert all(0 < len(batch) <= batch_size for batch in batches)
    assert np.all(np.diff(split.lengths[order]) <= 0)
    outputs = np.empty(len(split), dtype=np.int64)
    for rows in batches:
        outputs[rows] = collate(split, rows, 0)["labels"]
    assert np.array_equal(outputs, split.labels)
