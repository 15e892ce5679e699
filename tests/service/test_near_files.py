"""Which missing file gets which suggestion."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopeft.service.near_files import near_file

FILES = ("train.jsonl", "rows.csv", "deep/only.jsonl", "tokenizer.json", "notes.txt")

#: The file that is missing, and what is meant; None where nothing is.
CASES = {
    "typo": ("trian.jsonl", "train.jsonl"),
    "another ending": ("train.csv", "train.jsonl"),
    "ending alone is alike": ("people.jsonl", None),
    "wrong folder": ("data/train.jsonl", "train.jsonl"),
    "folder left out": ("only.jsonl", "deep/only.jsonl"),
    "no data": ("notes.jsonl", None),
    "nothing near": ("elsewhere/far/other.csv", None),
}


@pytest.mark.parametrize("name", CASES)
def test_only_a_near_miss_is_suggested(name: str, tmp_path: Path) -> None:
    for file in FILES:
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    missing, meant = CASES[name]
    expected = "" if meant is None else f"; did you mean '{meant}'?"
    found = near_file(tmp_path / missing, base=tmp_path, suffixes=(".jsonl", ".csv"))
    assert found == expected
