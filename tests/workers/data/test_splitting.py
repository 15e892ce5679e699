"""Cuts and draws: proportions, groups of equal text, seeds."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft.workers.data.splitting import allocate, cut, draw, text_key, text_keys
from autopeft.workers.dataset import Rows


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


rows_with_repeats = st.lists(
    st.tuples(st.integers(0, 15), st.sampled_from("abc")), min_size=1, max_size=60
).map(
    lambda pairs: Rows.of_texts(
        [f"Text {number}" for number, _ in pairs], [label for _, label in pairs]
    )
)


@given(rows=rows_with_repeats, num_rows=st.integers(0, 40), seed=st.integers(0, 5))
@pytest.mark.parametrize("stratify", [True, False])
def test_a_cut_parts_no_equal_texts_and_takes_no_class_away(
    rows: Rows, num_rows: int, seed: int, stratify: bool
) -> None:
    away = cut(rows, num_rows, generator(seed), stratify=stratify)
    assert away == sorted(set(away))
    assert len(away) <= num_rows
    keys = text_keys(rows)
    left = set(range(len(rows))) - set(away)
    assert not {keys[i] for i in away} & {keys[i] for i in left}
    assert left
    if stratify:
        assert {rows.label[i] for i in left} == set(rows.label)


def test_a_cut_is_in_proportion() -> None:
    labels = ["a"] * 600 + ["b"] * 300 + ["c"] * 100
    rows = Rows.of_texts([f"text {i}" for i in range(1000)], labels)
    away = cut(rows, 150, generator(), stratify=True)
    assert Counter(labels[i] for i in away) == {"a": 90, "b": 45, "c": 15}


def test_another_seed_cuts_other_rows() -> None:
    rows = Rows.of_texts([f"text {i}" for i in range(100)], [0, 1] * 50)
    first, again, other = (cut(rows, 20, generator(s), stratify=True) for s in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("first", "second", "is_equal"),
    [
        ("A text.", "a  TEXT", True),
        ("a text", "a test", False),
        (":-)", ":-)", True),
        (":-)", ":-(", False),
        ("日本語", "日本", False),
        ("", "", True),
    ],
)
def test_texts_are_equal_in_letters_and_digits(first: str, second: str, is_equal: bool) -> None:
    assert (text_key(first) == text_key(second)) is is_equal


def test_pairs_are_equal_where_both_texts_are() -> None:
    assert text_key("a", "b") != text_key("ab")
    assert text_key("a", "b") != text_key("b", "a")
    assert text_key("A.", "b") == text_key("a", "B!")


@given(
    labels=st.lists(st.sampled_from("abcd"), min_size=1, max_size=50),
    part=st.floats(0, 1),
    minimum=st.integers(0, 3),
)
@pytest.mark.parametrize("stratify", [True, False])
def test_a_draw_has_the_size_asked_for(
    labels: list[str], part: float, minimum: int, stratify: bool
) -> None:
    num_rows = round(part * len(labels))
    drawn = draw(labels, num_rows, generator(), stratify=stratify, minimum=minimum)
    assert drawn == sorted(set(drawn))
    assert len(drawn) == num_rows
    if stratify and minimum and num_rows >= minimum * len(set(labels)):
        assert {labels[i] for i in drawn} == set(labels)


@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=8),
    total=st.integers(0, 120),
    minimum=st.integers(0, 4),
)
def test_shares_sum_to_the_total_and_fit(sizes: list[int], total: int, minimum: int) -> None:
    shares = allocate(sizes, total, minimum=minimum)
    assert sum(shares) == min(total, sum(sizes))
    assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))
    floors = [min(minimum, size) for size in sizes]
    if sum(floors) <= total:
        assert all(share >= floor for share, floor in zip(shares, floors, strict=True))


@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=8), total=st.integers(0, 120))
def test_shares_are_within_one_of_proportional(sizes: list[int], total: int) -> None:
    whole = sum(sizes)
    total = min(total, whole)
    exact = [total * size / max(1, whole) for size in sizes]
    shares = allocate(sizes, total)
    assert all(abs(share - part) < 1 for share, part in zip(shares, exact, strict=True))
