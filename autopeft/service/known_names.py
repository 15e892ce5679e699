"""Names behind every seam, read without importing the implementations.

A registry imports its modules when it is asked, and some of them import torch. Checking a job
file must answer at once, so names are read from the sources of a seam's package: each
``@SEAM.register("name")`` on a class, and the entry points of group ``autopeft.<seam>``. Where
a constant stands in place of the text, the name is the module's, with ``-`` for ``_``.
"""

from __future__ import annotations

import ast
import importlib.util
import pkgutil
from collections.abc import Iterator
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import entry_points

#: Package with the built-in implementations of each seam that a job file can name.
SEAM_PACKAGES = {
    "proposers": "autopeft.proposers",
    "stoppers": "autopeft.stoppers",
    "executors": "autopeft.workers.executors",
    "tasks": "autopeft.workers.tasks",
    "exporters": "autopeft.results.exporters",
    "methods": "autopeft.search_spaces.methods",
}


@cache
def known_names(seam: str) -> tuple[str, ...]:
    """Return the registered names of ``seam``, sorted; equal to ``Registry.names()``.

    Args:
        seam: A key of :data:`SEAM_PACKAGES`.
    """
    added = {entry.name for entry in entry_points(group=f"autopeft.{seam}")}
    return tuple(sorted({*built_in_names(seam), *added}))


@cache
def built_in_names(seam: str) -> tuple[str, ...]:
    """Return the names of ``seam`` that this package brings itself, sorted."""
    names = set()
    for spec in _module_specs(SEAM_PACKAGES[seam]):
        names.update(_registered_names(spec))
    return tuple(sorted(names))


def _module_specs(package: str) -> Iterator[ModuleSpec]:
    parent = importlib.util.find_spec(package)
    assert parent is not None
    assert parent.submodule_search_locations is not None
    for module in pkgutil.iter_modules(parent.submodule_search_locations):
        if not module.name.startswith("_"):
            spec = importlib.util.find_spec(f"{package}.{module.name}")
            assert spec is not None
            yield spec


def _registered_names(spec: ModuleSpec) -> set[str]:
    get_source = getattr(spec.loader, "get_source", None)
    source = get_source(spec.name) if get_source is not None else None
    if not source or ".register(" not in source:
        return set()
    by_convention = spec.name.rpartition(".")[2].replace("_", "-")
    return {
        _text_of(decorator.args[0], by_convention)
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call)
        and isinstance(decorator.func, ast.Attribute)
        and decorator.func.attr == "register"
        and decorator.args
    }


def _text_of(argument: ast.expr, otherwise: str) -> str:
    """Return the text that stands there; a name of a constant is not looked up."""
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        return argument.value
    return otherwise
