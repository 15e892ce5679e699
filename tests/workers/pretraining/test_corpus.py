"""What is pretrained on, what is held out, and what is left for fine-tuning."""

from __future__ import annotations

import pytest

from autopeft.errors import DataError
from autopeft.workers.data import signatures
from autopeft.workers.pretraining import corpus
from autopeft.workers.pretraining.corpus import (
    MAX_CHARACTERS,
    document,
    is_held_out,
    read_corpus,
    read_held_out,
    shortened,
)
from autopeft.workers.pretraining.recipe import PRETRAINING_LIBRARIES
from autopeft.workers.source_code import Definition, letters

LIBRARIES = ("rich", "typer")


def test_fine_tuning_has_libraries_of_its_own() -> None:
    assert not set(signatures.LIBRARIES) & set(PRETRAINING_LIBRARIES)


def test_whole_modules_are_held_out() -> None:
    found = read_corpus(LIBRARIES, seed=0, num_per_library=120)
    assert len(found.train) > 100
    assert found.held_out
    assert set(found.versions) == set(LIBRARIES)
    owners = [{text.split("\n")[0] for text in texts} for texts in (found.train, found.held_out)]
    assert not owners[0] & owners[1]
    keys = [{letters(text) for text in texts} for texts in (found.train, found.held_out)]
    assert len(keys[0]) == len(found.train)
    assert not keys[0] & keys[1]
    assert found == read_corpus(LIBRARIES, seed=0, num_per_library=120)
    assert found.train != read_corpus(LIBRARIES, seed=1, num_per_library=120).train


def test_a_part_of_the_modules_is_held_out() -> None:
    modules = [f"module_{number}.py" for number in range(3200)]
    held_out = [module for module in modules if is_held_out("rich", module, 0)]
    assert len(held_out) == pytest.approx(3200 / corpus.HELD_OUT_ONE_IN, rel=0.2)


def test_a_library_that_is_not_there_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {"no_such_library": "none", "typer": "typer"}
    monkeypatch.setattr(corpus, "PRETRAINING_LIBRARIES", wanted)
    found = read_corpus(("no_such_library", "typer"), seed=0, num_per_library=20)
    assert found.missing == ("no_such_library",)
    with pytest.raises(DataError, match="none of no_such_library is installed"):
        read_corpus(("no_such_library",), seed=0, num_per_library=20)


def test_general_text_is_held_out_of_every_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PRETRAINING_LIBRARIES", {"rich": "rich", "accelerate": "x"})
    texts = read_held_out(6)
    assert len(texts) == len({letters(text) for text in texts}) == 6
    assert {text.split()[1].split(".")[0] for text in texts} == {"rich", "accelerate"}
    trained = read_corpus(("rich", "accelerate"), seed=0, num_per_library=10_000).train
    assert not {text.split("\n")[0] for text in texts} & {text.split("\n")[0] for text in trained}
    assert read_held_out(3) == texts[:3]


def test_no_library_is_no_general_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PRETRAINING_LIBRARIES", {"no_such_library": "none"})
    with pytest.raises(DataError, match="none of the libraries") as raised:
        read_held_out(3)
    assert raised.value.hint == "name a file: retention: {data: FILE.jsonl}"


def test_a_document_looks_like_source() -> None:
    function = Definition(
        module="a.py", owner="lib.a.A", header="def f(self):", docstring="Do it.\n\nWell."
    )
    assert document(function) == '# lib.a.A\ndef f(self):\n    """Do it.\n\n    Well."""\n'
    module = Definition(module="a.py", owner="lib.a", header="", docstring="What it is.")
    assert document(module) == '# lib.a\n"""What it is."""\n'


def test_long_docstrings_lose_paragraphs() -> None:
    first, second = "word " * 60, "more " * 100
    assert shortened(f"{first}\n\n{second}") == first
    assert shortened("a\n \nb") == "a\n\nb"
    cut = shortened("word " * 400)
    assert len(cut) <= MAX_CHARACTERS
    assert cut.endswith("word")
