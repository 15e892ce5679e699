"""Sizes as people write them."""

from __future__ import annotations

import pytest

from autopeft.sizes import parse_bytes, parse_count


@pytest.mark.parametrize(
    ("text", "expected"),
    [("24GiB", 24 * 2**30), ("80 GB", 80 * 10**9), ("1.5mib", 3 * 2**19), ("1e9", 10**9)],
)
def test_sizes_are_read(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "24 apples", "0", "2M"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a size such as 24GiB"):
        parse_bytes(text)


@pytest.mark.parametrize(("text", "expected"), [("2M", 2e6), ("500k", 5e5), ("0.25", 0.25)])
def test_counts_are_read(text: str, expected: float) -> None:
    assert parse_count(text) == expected


@pytest.mark.parametrize("text", ["", "two", "24GiB", "-3"])
def test_other_counts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a number such as 2M"):
        parse_count(text)
