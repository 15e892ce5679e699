"""``builtin:docstrings``, a data set that asks which library a docstring comes from.

Real text that needs no network: the docstrings of eight libraries that AutoPEFT's own
dependencies bring, read with ``ast`` from their installed source; none of them is imported.

* A module is visited in the order of a hash of (seed, library, path), until its library has
  enough examples: the order does not depend on the file system.
* Names of libraries inside the text are masked, so that the answer is not spelt out.
* All docstrings of a module fall into one split, and of docstrings with equal letters only one
  is kept (none where two libraries share them), so that no near-duplicate crosses a split.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from operator import itemgetter
from types import MappingProxyType
from typing import Any

from autopeft.errors import DataError
from autopeft.workers.data.module_splits import assign_modules
from autopeft.workers.data.table import Table
from autopeft.workers.dataset import SPLIT_NAMES, SplitName
from autopeft.workers.source_code import digest, letters, library_root, module_sources, parsed

#: Import name -> name of its distribution. Each is brought by a core dependency.
LIBRARIES = {
    "networkx": "networkx",
    "pandas": "pandas",
    "ray": "ray",
    "sklearn": "scikit-learn",
    "sqlalchemy": "SQLAlchemy",
    "sympy": "sympy",
    "torch": "torch",
    "transformers": "transformers",
}
MASK = "LIB"
MAX_CHARACTERS = 400
MIN_WORDS = 8
NUM_PER_LIBRARY = 800
#: So that no single large module fills a library's share.
NUM_PER_MODULE = 25

#: Its letters, its module and its text.
Example = tuple[str, str, str]

_NAMES = re.compile(
    # Long names anywhere, also inside identifiers; short ones only as words of their own.
    r"scikit-?learn|sklearn|sqlalchemy|networkx|pandas|numpy|scipy|sympy|pytorch|torch"
    r"|transformers|hugging ?face|pydata"
    r"|raylet|(?<![a-z])(?:np|pd|nx|sp|sa|hf|ray)(?![a-z])|(?-i:\bRay(?=[A-Z]))",
    re.IGNORECASE,
)
_BLANK_LINE = re.compile(r"\n\s*\n")


def read_docstrings(
    seed: int,
    *,
    libraries: Mapping[str, str] = MappingProxyType(LIBRARIES),
    num_per_library: int = NUM_PER_LIBRARY,
) -> tuple[dict[SplitName, Table], dict[str, Any]]:
    """Return the three splits (columns ``text`` and ``label``) and where they come from.

    Args:
        seed: Chooses modules and docstrings, and assigns modules to splits.
        libraries: Name of the distribution by import name.
        num_per_library: Reading a library ends with the module that makes up this number.

    Raises:
        DataError: a library has no source here.
    """
    found = {
        library: list(_examples(library, distribution, seed, num_per_library))
        for library, distribution in libraries.items()
    }
    owners = Counter(key for examples in found.values() for key, _, _ in examples)
    rows: dict[SplitName, list[tuple[str, str, str]]] = {split: [] for split in SPLIT_NAMES}
    for library, examples in found.items():
        own = [example for example in examples if owners[example[0]] == 1]
        for split, (key, _, text) in assign_modules(own, itemgetter(1)):
            rows[split].append((digest(seed, key), text, library))
    tables: dict[SplitName, Table] = {}
    everything = hashlib.sha256()
    for split, chosen in rows.items():
        chosen.sort()
        for _, text, library in chosen:
            everything.update(f"{split}\0{library}\0{text}\0".encode())
        tables[split] = Table(
            columns={"text": [row[1] for row in chosen], "label": [row[2] for row in chosen]},
            origin=f"builtin:docstrings, split {split}",
        )
    versions = {name: version(distribution) for name, distribution in libraries.items()}
    return tables, {
        "source": "builtin:docstrings",
        "packages": versions,
        "sha256": everything.hexdigest(),
    }


def example_text(docstring: str) -> str | None:
    """Return the first paragraphs of a docstring, names masked; None where too little is left."""
    text = ""
    for paragraph in _BLANK_LINE.split(docstring):
        joined = f"{text} {' '.join(paragraph.split())}".strip()
        if len(joined) > MAX_CHARACTERS:
            text = text or joined[:MAX_CHARACTERS].rsplit(" ", 1)[0]
            break
        text = joined
    text = _NAMES.sub(MASK, text)
    return text if len(text.split()) >= MIN_WORDS else None


def _examples(library: str, distribution: str, seed: int, num_wanted: int) -> Iterator[Example]:
    """Yield (key, module, text) of one library until it has enough, each key once."""
    if library_root(library) is None:
        raise DataError(
            f"builtin:docstrings needs the source of {library}, which is not installed",
            hint=f"pip install {distribution}",
        )
    seen: set[str] = set()
    for module, source in module_sources(library, seed):
        fresh: dict[str, str] = {}
        for docstring in _docstrings(source):
            text = example_text(docstring)
            key = "" if text is None else letters(text)
            if text is not None and key not in seen:
                fresh.setdefault(key, text)
        for key in sorted(fresh, key=lambda key: digest(seed, key))[:NUM_PER_MODULE]:
            seen.add(key)
            yield key, module, fresh[key]
        if len(seen) >= num_wanted:
            return


def _docstrings(source: bytes) -> Iterator[str]:
    """Yield the docstrings of a module, its classes, functions and methods, the last ones first.

    The order is part of the data: of docstrings with equal letters the first one stays.
    """
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    pending: list[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef] = []
    if (module := parsed(source)) is not None:
        pending.append(module)
    while pending:
        node = pending.pop()
        docstring = ast.get_docstring(node)
        if docstring:
            yield docstring
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pending += [child for child in node.body if isinstance(child, kinds)]
