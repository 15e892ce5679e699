"""``builtin:signatures``: split by module, no answer twice, independent of the file system."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from autopeft.errors import DataError
from autopeft.workers.data.signatures import LIBRARIES, first_line, read_signatures
from autopeft.workers.data.sources import read_tables
from autopeft.workers.data.table import Table
from autopeft.workers.dataset import SPLIT_NAMES, SplitName
from autopeft.workers.settings import DataSettings

ZOO = ("coati_zoo", "dugong_zoo")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def write_zoo(folder: Path, *, reverse: bool = False) -> None:
    """Write two libraries of ten modules with two functions each, and one that all share."""
    for library in ZOO:
        for number in NUMBERS[:: -1 if reverse else 1]:
            path = folder / library / f"{number}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                f'"""The module {number}."""\n'
                f'def feed(animal, food={number!r}):\n    """Feed {number} of {library}."""\n'
                "class Cage:\n"
                f'    """A cage number {number} of {library}."""\n'
                f'    def open(self):\n        """Open {number} in {library}."""\n'
                '    def close(self):\n        """Close the cage again."""\n'
            )
        (folder / library / "__init__.py").write_text("raise AssertionError('imported')\n")


def read_zoo(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, seed: int = 0, number: int = 1000
) -> tuple[dict[SplitName, Table], dict[str, Any]]:
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(folder))
        return read_signatures(seed, libraries=dict.fromkeys(ZOO, "zoo"), num_per_library=number)


def rows_of(tables: dict[SplitName, Table]) -> dict[SplitName, list[tuple[str, str]]]:
    return {
        split: list(zip(table.columns["prompt"], table.columns["completion"], strict=True))
        for split, table in tables.items()
    }


def test_functions_become_prompts_and_first_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_zoo(tmp_path)
    rows = [row for split in rows_of(read_zoo(tmp_path, monkeypatch)[0]).values() for row in split]
    assert len(rows) == 41  # two of each module, and the shared one once
    assert ("# coati_zoo.two\ndef feed(animal, food='two'):\n", "Feed two of coati_zoo.") in rows
    assert ("# dugong_zoo.six.Cage\ndef open(self):\n", "Open six in dugong_zoo.") in rows
    assert not set(ZOO) & set(sys.modules)


def test_modules_and_answers_stay_in_one_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_zoo(tmp_path)
    split_of: dict[str, set[str]] = {}
    answers: list[str] = []
    for split, rows in rows_of(read_zoo(tmp_path, monkeypatch)[0]).items():
        for prompt, completion in rows:
            module = ".".join(prompt.split()[1].split(".")[:2])
            split_of.setdefault(module, set()).add(split)
            answers.append(completion)
    assert len(split_of) == 20
    assert all(len(splits) == 1 for splits in split_of.values())
    assert len(set(answers)) == len(answers)
    assert set().union(*split_of.values()) == set(SPLIT_NAMES)


def test_the_order_is_the_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_zoo(tmp_path / "a")
    write_zoo(tmp_path / "b", reverse=True)
    one, facts = read_zoo(tmp_path / "a", monkeypatch)
    assert rows_of(one) == rows_of(read_zoo(tmp_path / "b", monkeypatch)[0])
    assert facts["source"] == "builtin:signatures"
    other, other_facts = read_zoo(tmp_path / "a", monkeypatch, seed=1)
    assert rows_of(one) != rows_of(other)
    assert facts["sha256"] != other_facts["sha256"]


def test_reading_ends_with_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_zoo(tmp_path)
    rows = rows_of(read_zoo(tmp_path, monkeypatch, number=5)[0])
    assert 10 <= sum(map(len, rows.values())) <= 14


@pytest.mark.parametrize(
    ("docstring", "line"),
    [
        ("Return the sum of it.", "Return the sum of it."),
        ("Return  the sum.\n\nMore.", "Return the sum."),
        ("Return the sum.\nAnd more.", "Return the sum."),
        ("Return the sum\n\nMore.", "Return the sum"),
        ("Return the sum of all\nthe numbers.", None),
        ("Two words.", None),
        ("word " * 60, None),
    ],
)
def test_a_first_line_is_a_sentence(docstring: str, line: str | None) -> None:
    assert first_line(docstring) == line


def test_a_missing_library_is_told() -> None:
    with pytest.raises(DataError, match="needs the source of no_such_library"):
        read_signatures(0, libraries={"no_such_library": "none"})


def test_a_job_can_name_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        "autopeft.workers.data.signatures.read_signatures", lambda seed: ({}, {"seed": seed})
    )
    assert read_tables(DataSettings(name="builtin:signatures"), tmp_path, 4) == ({}, {"seed": 4})
    with pytest.raises(DataError, match="did you mean 'builtin:signatures'"):
        read_tables(DataSettings(name="builtin:signature"), tmp_path, 0)


@pytest.mark.slow
def test_the_installed_libraries_give_thousands() -> None:
    tables, facts = read_signatures(0)
    sizes = {split: len(table) for split, table in tables.items()}
    assert sizes["train"] > 2000
    assert min(sizes["validation"], sizes["test"]) > 400
    assert set(facts["packages"]) == set(LIBRARIES)
