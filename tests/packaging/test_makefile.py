"""The Makefile: every target parses, and a Python that is too old is refused clearly."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

TARGETS = ("setup", "quickstart", "test", "lint", "clean", "help")


def make(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make on its own, though the tests may have been started by one."""
    command = ["make", "--no-print-directory", *arguments]
    inherited = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "PYTHON", "VENV", "TORCH")
    env = {name: value for name, value in os.environ.items() if name not in inherited}
    return subprocess.run(command, cwd=repository, env=env, capture_output=True, text=True)


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_can_be_planned(repository: Path, target: str) -> None:
    done = make(repository, "--dry-run", target)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_setup_installs_the_chosen_torch_first(repository: Path, tmp_path: Path) -> None:
    flags = ("PIP_FLAGS=--find-links here", "TORCH=torch==1.2.3+mine", f"VENV={tmp_path}/venv")
    plan = make(repository, "--dry-run", "setup", *flags).stdout
    installs = re.findall(r'pip install --find-links here -c "\S+/constraints.txt" (.+)', plan)
    assert installs == ['"torch==1.2.3+mine"', "-e '.[dev]'"]


def test_setup_takes_the_tested_torch_by_default(repository: Path, tmp_path: Path) -> None:
    plan = make(repository, "--dry-run", "setup", f"VENV={tmp_path}/venv").stdout
    pin = re.search(r"^torch==\S+$", (repository / "constraints.txt").read_text(), re.MULTILINE)
    assert pin is not None
    assert f'"{pin.group()}"' in plan


@pytest.mark.parametrize("python", ["false", "no-such-python", ""])
def test_a_python_that_will_not_do_is_refused(
    repository: Path, tmp_path: Path, python: str
) -> None:
    done = make(repository, "setup", f"PYTHON={python}", f"VENV={tmp_path}/venv")
    assert done.returncode != 0
    assert "AutoPEFT needs Python 3.11 or newer" in done.stderr
    assert "hint: make setup PYTHON=" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_the_pipeline_runs_the_same_targets(repository: Path) -> None:
    script = repository / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "make lint test" in script.read_text()
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
