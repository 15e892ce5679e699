"""What importing costs, what it offers, and which names it does not take."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import autopeft

HEAVY = ("torch", "transformers", "peft", "botorch", "gpytorch", "ray", "sklearn", "pandas")


def run_python(code: str, cwd: Path) -> str:
    """Run ``code`` in a new process that sees installed packages only (``-P``)."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", ["autopeft", "autopeft.cli", "autopeft.records"])
def test_importing_loads_nothing_heavy(module: str, tmp_path: Path) -> None:
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    loaded = set(json.loads(run_python(code, tmp_path)))
    assert module in loaded
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize("name", ["workers", "results", "search_spaces"])
def test_generic_names_stay_free(name: str, tmp_path: Path) -> None:
    code = f"import importlib.util; print(importlib.util.find_spec({name!r}))"
    assert run_python(code, tmp_path).strip() == "None"


def test_autopeft_itself_is_importable_from_another_folder(tmp_path: Path) -> None:
    version = run_python("import autopeft; print(autopeft.__version__)", tmp_path).strip()
    assert version == autopeft.__version__


def test_the_public_surface_is_what_all_says() -> None:
    assert autopeft.__all__ == sorted(autopeft.__all__)
    assert autopeft.__all__ == ["Job", "__version__", "open", "search"]
    assert set(autopeft.__all__) <= set(dir(autopeft))


@pytest.mark.parametrize("name", autopeft.__all__)
def test_every_public_name_exists(name: str) -> None:
    assert getattr(autopeft, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'serach'"):
        autopeft.serach  # noqa: B018
