"""The text that built-in language models are pretrained on, and the text held out from it.

One document is one docstring with its signature, as it stands in a source file. Whole modules
are held out, drawn by a hash of their path: no sentence of theirs is trained on, and a held-out
docstring with the letters of a trained one is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec

from autopeft.errors import DataError
from autopeft.workers.pretraining.recipe import PRETRAINING_LIBRARIES
from autopeft.workers.source_code import (
    STANDARD_LIBRARY,
    Definition,
    digest,
    letters,
    library_version,
    read_modules,
)

#: Docstrings are cut after the paragraph that passes this.
MAX_CHARACTERS = 600
MIN_WORDS = 3
#: So that no single large module fills a library's share.
NUM_PER_MODULE = 60
#: Of a probe of general text: few of each module, and none too short to tell anything.
NUM_PROBES_PER_MODULE, MIN_PROBE_WORDS = 8, 12
#: One module in this many is held out.
HELD_OUT_ONE_IN = 16

_BLANK_LINE = re.compile(r"\n[ \t]*\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Documents in the order of a hash.

    Attributes:
        train: To pretrain on.
        held_out: Of modules that nothing of is trained on.
        versions: Version of each library that was read.
        missing: Libraries that were wanted and are not installed.
    """

    train: list[str]
    held_out: list[str]
    versions: dict[str, str | None]
    missing: tuple[str, ...]


def read_corpus(
    libraries: Iterable[str],
    *,
    seed: int,
    num_per_library: int,
    on_library: Callable[[str, int], None] = lambda library, number: None,
) -> Corpus:
    """Read the documents of the libraries that are installed.

    Args:
        libraries: Import names, of ``PRETRAINING_LIBRARIES``.
        seed: Chooses modules, what is held out, and the order.
        num_per_library: Reading a library ends with the module that makes up this number.
        on_library: Told each library before it is read, and how many were read.

    Raises:
        DataError: none of the libraries is installed.
    """
    train: dict[str, str] = {}
    held_out: dict[str, str] = {}
    versions: dict[str, str | None] = {}
    missing: list[str] = []
    for number, library in enumerate(libraries):
        on_library(library, number)
        if library != STANDARD_LIBRARY and find_spec(library) is None:
            missing.append(library)
            continue
        versions[library] = library_version(library, PRETRAINING_LIBRARIES[library])
        count = 0
        for module, definitions in read_modules(library, seed):
            target = held_out if is_held_out(library, module, seed) else train
            before = len(target)
            for definition in _choose(definitions, seed):
                target.setdefault(letters(definition.docstring), document(definition))
            count += len(target) - before
            if count >= num_per_library:
                break
    if not versions:
        raise DataError(
            f"none of {', '.join(missing)} is installed, so there is no text to pretrain on",
            hint="install AutoPEFT with its dependencies: pip install autopeft",
        )
    kept = {key: text for key, text in held_out.items() if key not in train}
    return Corpus(
        train=[train[key] for key in sorted(train, key=lambda key: digest(seed, key))],
        held_out=[kept[key] for key in sorted(kept, key=lambda key: digest(seed, key))],
        versions=versions,
        missing=tuple(missing),
    )


def read_held_out(num_texts: int, *, seed: int = 0) -> list[str]:
    """Return documentation that no built-in model was pretrained on, in the order of a hash.

    Libraries take turns, so that each is there. What is held out of a pretraining is drawn by
    modules alone, so this reads held-out modules and no others.

    Args:
        num_texts: How many; fewer where there are no more.
        seed: Of the recipe whose held-out modules are read.

    Raises:
        DataError: none of the libraries is installed.
    """
    waiting = [_held_out_texts(library, seed) for library in PRETRAINING_LIBRARIES]
    texts: dict[str, str] = {}
    while waiting and len(texts) < num_texts:
        going = []
        for library in waiting:
            if (found := next(library, None)) is not None:
                texts.setdefault(letters(found), found)
                going.append(library)
        waiting = going
    if not texts:
        raise DataError(
            "none of the libraries that general text is read from is installed",
            hint="name a file: retention: {data: FILE.jsonl}",
        )
    return list(texts.values())[:num_texts]


def _held_out_texts(library: str, seed: int) -> Iterator[str]:
    if library != STANDARD_LIBRARY and find_spec(library) is None:
        return
    for _, definitions in read_modules(
        library, seed, is_wanted=lambda module: is_held_out(library, module, seed)
    ):
        for definition in _choose(definitions, seed)[:NUM_PROBES_PER_MODULE]:
            if len(definition.docstring.split()) >= MIN_PROBE_WORDS:
                yield document(definition)


def is_held_out(library: str, module: str, seed: int) -> bool:
    """Return whether nothing of a module may be pretrained on."""
    return int(digest(seed, "held out", library, module)[:8], 16) % HELD_OUT_ONE_IN == 0


def document(definition: Definition) -> str:
    """Return a definition with its docstring as it stands in a source file."""
    indent = "    " if definition.header else ""
    lines = [f"# {definition.owner}"]
    lines += [definition.header] if definition.header else []
    text = f'"""{shortened(definition.docstring)}"""'
    lines += [f"{indent}{line}".rstrip() for line in text.split("\n")]
    return "\n".join(lines) + "\n"


def shortened(docstring: str) -> str:
    """Return the first paragraphs of a docstring, at least one, cut where that is too long."""
    text = ""
    for paragraph in _BLANK_LINE.split(docstring):
        longer = f"{text}\n\n{paragraph}" if text else paragraph
        if len(longer) > MAX_CHARACTERS:
            return text or longer[:MAX_CHARACTERS].rsplit(" ", 1)[0]
        text = longer
    return text


def _choose(definitions: list[Definition], seed: int) -> list[Definition]:
    worth = [each for each in definitions if len(each.docstring.split()) >= MIN_WORDS]
    worth.sort(key=lambda each: digest(seed, each.owner, each.header, each.docstring))
    return worth[:NUM_PER_MODULE]
