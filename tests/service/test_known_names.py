"""Names read from sources are the names the registries know."""

from __future__ import annotations

import importlib

import pytest

from autopeft.registry import Registry
from autopeft.service.known_names import SEAM_PACKAGES, built_in_names, known_names

REGISTRIES = {
    "proposers": "autopeft.proposers.base:PROPOSERS",
    "stoppers": "autopeft.stoppers.base:STOPPERS",
    "executors": "autopeft.workers.executors.base:EXECUTORS",
    "tasks": "autopeft.workers.tasks.base:TASKS",
    "exporters": "autopeft.results.exporters.base:EXPORTERS",
    "methods": "autopeft.search_spaces.method:METHODS",
}


@pytest.mark.parametrize(
    "seam",
    # The executors import ray, which belongs to the tier of that name.
    [pytest.param(s, marks=[pytest.mark.ray] if s == "executors" else []) for s in SEAM_PACKAGES],
)
def test_known_names_are_the_registered_ones(seam: str) -> None:
    module, _, name = REGISTRIES[seam].partition(":")
    registry: Registry[object] = getattr(importlib.import_module(module), name)
    assert known_names(seam) == registry.names()
    assert set(built_in_names(seam)) <= set(known_names(seam))


@pytest.mark.parametrize(
    ("seam", "name"),
    [
        ("proposers", "lora-sweep"),
        ("stoppers", "halving"),
        ("executors", "ray"),
        ("tasks", "regression"),
        ("methods", "lora"),
    ],
)
def test_the_names_of_the_documentation_are_there(seam: str, name: str) -> None:
    assert name in built_in_names(seam)
