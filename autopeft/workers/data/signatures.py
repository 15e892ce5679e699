"""``builtin:signatures``, a data set that asks for the first docstring line of a signature.

Fine-tuning data for a language model that needs no network: functions and methods of libraries
that AutoPEFT's own dependencies bring, and that ``builtin:docstring-lm`` was not pretrained on.
They are read with ``ast``; none is imported.

* The prompt is the dotted name of what a function stands in, as a comment, then its signature;
  the completion is the first line of its docstring.
* All functions of a module fall into one split, and of first lines with equal letters only one
  is kept, so that no answer crosses a split.
* Modules are visited in the order of a hash of (seed, library, path), until their library has
  enough rows: the order does not depend on the file system.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from operator import itemgetter
from types import MappingProxyType
from typing import Any

from autopeft.errors import DataError
from autopeft.workers.data.module_splits import assign_modules
from autopeft.workers.data.table import Table
from autopeft.workers.dataset import SPLIT_NAMES, SplitName
from autopeft.workers.source_code import (
    Definition,
    digest,
    letters,
    library_root,
    library_version,
    read_modules,
)

NAME = "builtin:signatures"
#: Import name -> name of its distribution; none is among the libraries of the pretraining.
LIBRARIES = {
    "networkx": "networkx",
    "sklearn": "scikit-learn",
    "sqlalchemy": "SQLAlchemy",
    "sympy": "sympy",
}
NUM_PER_LIBRARY = 1000
#: So that no single large module fills a library's share.
NUM_PER_MODULE = 30
MIN_WORDS, MAX_CHARACTERS = 3, 120

#: Library, module, prompt and completion.
Row = tuple[str, str, str, str]


def read_signatures(
    seed: int,
    *,
    libraries: Mapping[str, str] = MappingProxyType(LIBRARIES),
    num_per_library: int = NUM_PER_LIBRARY,
) -> tuple[dict[SplitName, Table], dict[str, Any]]:
    """Return the three splits (columns ``prompt`` and ``completion``) and where they come from.

    Args:
        seed: Chooses modules and functions, and assigns modules to splits.
        libraries: Name of the distribution by import name.
        num_per_library: Reading a library ends with the module that makes up this number.

    Raises:
        DataError: a library has no source here.
    """
    seen: set[str] = set()
    rows: dict[SplitName, list[tuple[str, str, str]]] = {split: [] for split in SPLIT_NAMES}
    for library, distribution in libraries.items():
        if library_root(library) is None:
            raise DataError(
                f"{NAME} needs the source of {library}, which is not installed",
                hint=f"pip install {distribution}",
            )
        found = _read(library, seed, num_per_library, seen)
        for split, (_, module, prompt, completion) in assign_modules(found, itemgetter(1)):
            rows[split].append((digest(seed, library, module, prompt), prompt, completion))
    tables: dict[SplitName, Table] = {}
    everything = hashlib.sha256()
    for split, chosen in rows.items():
        chosen.sort()
        for _, prompt, completion in chosen:
            everything.update(f"{split}\0{prompt}\0{completion}\0".encode())
        tables[split] = Table(
            columns={
                "prompt": [prompt for _, prompt, _ in chosen],
                "completion": [completion for _, _, completion in chosen],
            },
            origin=f"{NAME}, split {split}",
        )
    versions = {name: library_version(name, package) for name, package in libraries.items()}
    return tables, {"source": NAME, "packages": versions, "sha256": everything.hexdigest()}


def first_line(docstring: str) -> str | None:
    """Return the first line of a docstring, None where it is no sentence of its own."""
    line, _, rest = docstring.partition("\n")
    line = " ".join(line.split())
    goes_on = bool(rest.partition("\n")[0].strip()) and not line.endswith((".", ":", "!", "?"))
    if goes_on or len(line) > MAX_CHARACTERS or len(line.split()) < MIN_WORDS:
        return None
    return line


def prompt_of(definition: Definition) -> str:
    """Return what the model is given: where the function stands, and its signature."""
    return f"# {definition.owner}\n{definition.header}\n"


def _read(library: str, seed: int, num_wanted: int, seen: set[str]) -> list[Row]:
    """Return rows of one library, module by module; first lines in ``seen`` are passed over."""
    rows: list[Row] = []
    for module, definitions in read_modules(library, seed):
        fresh: dict[str, Row] = {}
        for definition in definitions:
            line = first_line(definition.docstring)
            key = "" if line is None else letters(line)
            if definition.is_function and line is not None and key and key not in seen:
                fresh.setdefault(key, (library, module, prompt_of(definition), line))
        for key in sorted(fresh, key=lambda key: digest(seed, key))[:NUM_PER_MODULE]:
            seen.add(key)
            rows.append(fresh[key])
        if len(rows) >= num_wanted:
            break
    return rows
