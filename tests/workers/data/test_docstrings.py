"""``builtin:docstrings``: masked, split by module, independent of the file system."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from autopeft.errors import DataError
from autopeft.workers.data import docstrings
from autopeft.workers.data.docstrings import LIBRARIES, MASK, example_text, read_docstrings
from autopeft.workers.data.table import Table
from autopeft.workers.dataset import SPLIT_NAMES, SplitName

ZOO = ("aardvark_zoo", "badger_zoo")


def write_zoo(folder: Path, *, reverse: bool = False) -> None:
    """Write two libraries of 20 modules with 3 docstrings each; all share one docstring."""
    for library in ZOO:
        modules = [f"module_{i:02d}" for i in range(20)]
        for module in modules[:: -1 if reverse else 1]:
            path = folder / library / f"part_{module[-1]}" / f"{module}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            words = f"{library} {module}".replace("_", " ").translate(DIGITS)
            path.write_text(
                f'"""What stands in this module is about {words}, nothing else.\n"""\n'
                "class A:\n"
                f'    """A class that does something useful for {words} today."""\n'
                "    def f(self):\n"
                '        """Do what both of the two libraries describe in these words."""\n'
                '        def inner():\n            """Never seen, however long the text is."""\n'
                "def g():\n    return 1\n"
            )
        (folder / library / "__init__.py").write_text("raise AssertionError('imported')\n")
        (folder / library / "tests").mkdir(exist_ok=True)
        (folder / library / "tests" / "test_a.py").write_text('"""A text that nobody reads."""\n')
        (folder / library / "broken.py").write_text("def (:\n")


DIGITS = str.maketrans("0123456789", "qwertyuiop")


@pytest.fixture
def read_zoo(monkeypatch: pytest.MonkeyPatch) -> Any:
    def read(folder: Path, seed: int = 0, number: int = 1000) -> dict[SplitName, Table]:
        monkeypatch.setattr(docstrings, "version", lambda name: "1.0")
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(folder))
            libraries = dict.fromkeys(ZOO, "zoo")
            return read_docstrings(seed, libraries=libraries, num_per_library=number)[0]

    return read


def all_rows(tables: dict[SplitName, Table]) -> list[tuple[str, str, str]]:
    return [
        (split, *row)
        for split in SPLIT_NAMES
        for row in zip(*tables[split].columns.values(), strict=True)
    ]


def test_docstrings_are_read_without_an_import(tmp_path: Path, read_zoo: Any) -> None:
    write_zoo(tmp_path)
    rows = all_rows(read_zoo(tmp_path))
    assert len(rows) == 80  # two of each module; the shared ones, tests and inner ones are out
    assert not set(ZOO) & set(sys.modules)
    texts = {text for _, text, _ in rows}
    assert len(texts) == 80
    assert not [text for text in texts if "describe" in text or "nobody" in text or "Never" in text]


def test_a_module_falls_into_one_split(tmp_path: Path, read_zoo: Any) -> None:
    write_zoo(tmp_path)
    split_of: dict[str, set[str]] = {}
    for split, text, _ in all_rows(read_zoo(tmp_path)):
        module = re.search(r"(aardvark|badger) zoo module \w+", text)
        assert module is not None
        split_of.setdefault(module[0], set()).add(split)
    assert len(split_of) == 40
    assert {len(splits) for splits in split_of.values()} == {1}
    assert set.union(*split_of.values()) == set(SPLIT_NAMES)


def test_the_rows_depend_on_the_seed_and_not_on_the_file_system(
    tmp_path: Path, read_zoo: Any
) -> None:
    write_zoo(tmp_path / "one")
    write_zoo(tmp_path / "two", reverse=True)
    first = all_rows(read_zoo(tmp_path / "one", number=20))
    assert first == all_rows(read_zoo(tmp_path / "two", number=20))
    assert first != all_rows(read_zoo(tmp_path / "one", seed=1, number=20))


@pytest.fixture(scope="module")
def sample() -> tuple[dict[SplitName, Table], dict[str, Any]]:
    return read_docstrings(0, num_per_library=25)


def test_the_installed_libraries_yield_rows_for_every_split(
    sample: tuple[dict[SplitName, Table], dict[str, Any]],
) -> None:
    tables, provenance = sample
    assert {label for table in tables.values() for label in table.columns["label"]} == set(
        LIBRARIES
    )
    assert all(len(table) > 10 for table in tables.values())
    assert set(provenance["packages"]) == set(LIBRARIES)
    assert re.fullmatch("[0-9a-f]{64}", provenance["sha256"])


def test_no_text_names_its_library(
    sample: tuple[dict[SplitName, Table], dict[str, Any]],
) -> None:
    names = re.compile("|".join([*set(LIBRARIES) - {"ray"}, r"\bray\b"]), re.IGNORECASE)
    texts = [text for table in sample[0].values() for text in table.columns["text"]]
    assert not [text for text in texts if names.search(text)]


@pytest.mark.parametrize(
    ("docstring", "text"),
    [
        ("Return ``torch.Tensor`` for all of the given rows.", "Return ``LIB.Tensor`` for all"),
        ("Use np.array or pd.Series or nx.Graph for it all.", "Use LIB.array or LIB.Series or"),
        ("The array x-ray of an arrayed Ray cluster in RayTrain.", "The array x-LIB of an arrayed"),
        ("One more line\n   over   two lines of text, no more.", "One more line over two lines of"),
        ("A Scikit-learn, scikit_learn and sklearn text that goes on.", "A LIB, LIB and LIB"),
    ],
)
def test_names_are_masked(docstring: str, text: str) -> None:
    masked = example_text(docstring.replace("scikit_learn", "scikitlearn"))
    assert masked is not None
    assert masked.startswith(text)


def test_a_text_is_whole_paragraphs_or_cut_at_a_word() -> None:
    words = " ".join(f"word{i}" for i in range(20))
    assert example_text(f"{words}\n\n{'x' * 300}") == words
    cut = example_text(" ".join(["word"] * 200))
    assert cut is not None
    assert cut.endswith("word")
    assert len(cut) <= docstrings.MAX_CHARACTERS


@pytest.mark.parametrize("docstring", ["Too short.", "", "numpy " * 3])
def test_a_text_of_few_words_is_no_example(docstring: str) -> None:
    assert example_text(docstring) is None


def test_a_library_that_is_not_installed_is_named() -> None:
    with pytest.raises(DataError, match="source of no_such_library") as caught:
        read_docstrings(0, libraries={"no_such_library": "no-such-library"})
    assert caught.value.hint == "pip install no-such-library"


@pytest.mark.slow
def test_the_task_is_neither_trivial_nor_impossible() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    tables, _ = read_docstrings(0)
    assert len(tables["train"]) > 3500
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    X = vectors.fit_transform(tables["train"].columns["text"])
    model = LogisticRegression(C=10, max_iter=1000).fit(X, tables["train"].columns["label"])
    held_out = tables["validation"].columns
    accuracy = model.score(vectors.transform(held_out["text"]), held_out["label"])
    assert 0.6 < accuracy < 0.9
    assert MASK in " ".join(held_out["text"])
