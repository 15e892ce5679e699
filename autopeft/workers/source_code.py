"""Signatures and docstrings of installed libraries, read with ``ast``; nothing is imported.

Modules are visited in the order of a hash of (seed, library, path), so that what is read does
not depend on the file system.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import platform
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from autopeft.errors import DataError

#: Stands for Python's own library where the name of a library is asked for.
STANDARD_LIBRARY = "python"
#: Larger modules take long to parse, and are mostly tables or generated.
MAX_SOURCE_BYTES = 150_000
#: Longer lists of arguments are written without annotations and defaults, then cut.
MAX_SIGNATURE_CHARACTERS = 160

_SKIPPED_FOLDERS = frozenset(
    {"tests", "test", "testing", "externals", "_vendor", "_internal", "_lib", "thirdparty"}
)
#: Of Python's own library: installed packages, programs and their tests.
_SKIPPED_STANDARD = frozenset(
    {
        "site-packages",
        "dist-packages",
        "idlelib",
        "lib2to3",
        "turtledemo",
        "ensurepip",
        "lib-dynload",
    }
)
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """Something with a docstring.

    Attributes:
        module: Path of its module inside the library, e.g. ``linear_model/_ridge.py``.
        owner: Dotted name of what it stands in: a module, or a class in it.
        header: ``class Ridge(Base):`` or ``def fit(self, X, y):``; "" for a module.
        docstring: Cleaned of its indentation, without trailing space.
    """

    module: str
    owner: str
    header: str
    docstring: str

    @property
    def is_function(self) -> bool:
        """Whether it is a function or a method."""
        return "def " in self.header[:10]


def library_root(library: str) -> Path | None:
    """Return the folder of a library's source, None where it is not installed."""
    if library == STANDARD_LIBRARY:
        return Path(sysconfig.get_paths()["stdlib"])
    spec = importlib.util.find_spec(library)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent


def library_version(library: str, distribution: str) -> str | None:
    """Return the installed version of a library, None where it has none."""
    if library == STANDARD_LIBRARY:
        return platform.python_version()
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def read_modules(
    library: str, seed: int, *, is_wanted: Callable[[str], bool] = lambda module: True
) -> Iterator[tuple[str, list[Definition]]]:
    """Yield each module's path inside its library and its definitions with a docstring.

    Args:
        library: Import name, or :data:`STANDARD_LIBRARY`.
        seed: Orders the modules.
        is_wanted: Says of a module's path whether to read it.

    Raises:
        DataError: the library is not installed.
    """
    for module, source in module_sources(library, seed, is_wanted=is_wanted):
        yield module, list(read_definitions(source, library, module))


def module_sources(
    library: str, seed: int, *, is_wanted: Callable[[str], bool] = lambda module: True
) -> Iterator[tuple[str, bytes]]:
    """Yield each module's path inside its library and its source; arguments as above.

    Folders with tests and copies of other libraries are passed over, and so are modules that
    cannot be read or are very large.
    """
    root = library_root(library)
    if root is None:
        raise DataError(f"the source of {library} is not installed", hint=f"pip install {library}")
    skipped = _SKIPPED_FOLDERS
    if library == STANDARD_LIBRARY:
        skipped |= _SKIPPED_STANDARD
    modules = [module for module in _python_files(root, skipped) if is_wanted(module)]
    for module in sorted(modules, key=lambda module: digest(seed, library, module)):
        try:
            source = (root / module).read_bytes()
        except OSError:
            continue
        if len(source) <= MAX_SOURCE_BYTES:
            yield module, source


def parsed(source: bytes) -> ast.Module | None:
    """Return the syntax tree of a module, None where it was written for another Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # escape sequences of somebody else's source
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError):  # or a template
            return None


def read_definitions(source: bytes, library: str, module: str) -> Iterator[Definition]:
    """Yield what has a docstring in a module: itself, its classes, functions and methods."""
    tree = parsed(source)
    if tree is None:
        return
    parts = [*module.removesuffix(".py").removesuffix("__init__").strip("/").split("/")]
    names = [part for part in parts if part]
    dotted = ".".join(names if library == STANDARD_LIBRARY else [library, *names])
    pending: list[tuple[_Documented, str]] = [(tree, dotted or library)]
    while pending:
        node, owner = pending.pop(0)
        docstring = (ast.get_docstring(node) or "").rstrip()
        if docstring:
            yield Definition(module=module, owner=owner, header=_header(node), docstring=docstring)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        inside = f"{owner}.{node.name}" if isinstance(node, ast.ClassDef) else owner
        kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        pending += [(child, inside) for child in node.body if isinstance(child, kinds)]


def _python_files(root: Path, skipped: frozenset[str]) -> Iterator[str]:
    """Yield the paths of modules below ``root``; skipped folders are not walked."""
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in skipped]
        here = Path(folder).relative_to(root)
        for name in files:
            if name.endswith(".py") and name not in skipped:
                yield (here / name).as_posix()


def digest(seed: int, *parts: str) -> str:
    """Return a hash that orders things as if by chance, equal everywhere."""
    return hashlib.sha256("\0".join((str(seed), *parts)).encode()).hexdigest()


def letters(text: str) -> str:
    """Return what is compared to find texts that are nearly equal."""
    return "".join(character for character in text.casefold() if "a" <= character <= "z")


def _header(node: _Documented) -> str:
    if isinstance(node, ast.Module):
        return ""
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {node.name}({_cut(bases)}):" if bases else f"class {node.name}:"
    arguments = ast.unparse(node.args)
    if len(arguments) > MAX_SIGNATURE_CHARACTERS:
        arguments = ", ".join(_argument_names(node.args))
    returns = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
    if len(returns) > MAX_SIGNATURE_CHARACTERS // 4:
        returns = ""
    return f"def {node.name}({_cut(arguments)}){returns}:"


def _argument_names(arguments: ast.arguments) -> list[str]:
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    names += [f"*{arguments.vararg.arg}"] if arguments.vararg else []
    names += [argument.arg for argument in arguments.kwonlyargs]
    return names + ([f"**{arguments.kwarg.arg}"] if arguments.kwarg else [])


def _cut(text: str) -> str:
    if len(text) <= MAX_SIGNATURE_CHARACTERS:
        return text
    return f"{text[:MAX_SIGNATURE_CHARACTERS].rpartition(',')[0]}, ..."
