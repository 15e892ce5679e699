"""The steps of ``docker/Dockerfile`` in a clean virtual environment.

What the wheel needs is not downloaded a second time: the new environment sees the packages of
the one that runs the tests, through one line in a ``.pth`` file, and the wheel comes before them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.packaging.sources import build_wheel, copy_sources

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the ``bin`` folder of an environment into which the wheel was installed."""
    folder = tmp_path_factory.mktemp("clean")
    wheel = build_wheel(copy_sources(repository, folder / "source"), folder / "wheels")
    venv.create(folder / "venv", with_pip=True)
    binaries = folder / "venv" / "bin"
    python = str(binaries / "python")
    install = ["-m", "pip", "install", "--no-deps", "--no-index", f"{wheel}[quickstart]"]
    subprocess.run([python, *install], check=True, capture_output=True)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    borrowed = Path(packages.stdout.strip()) / "borrowed.pth"
    borrowed.write_text(sysconfig.get_path("purelib") + "\n")
    return binaries


def run(environment: Path, folder: Path, *command: str) -> str:
    """Run a program of ``environment`` from ``folder`` as the image would."""
    done = subprocess.run(
        [str(environment / command[0]), *command[1:]],
        cwd=folder,
        env={**os.environ, "PATH": f"{environment}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_installed_wheel_is_what_runs(environment: Path, tmp_path: Path) -> None:
    code = "import autopeft; print(autopeft.__file__)"
    found = Path(run(environment, tmp_path, "python", "-P", "-c", code).strip())
    assert found.is_relative_to(environment.parent)
    assert not found.is_relative_to(Path(sys.prefix))


def test_the_command_answers_from_another_folder(environment: Path, tmp_path: Path) -> None:
    assert "search" in run(environment, tmp_path, "autopeft", "--help")


def test_the_doctor_finds_what_a_job_needs(environment: Path, tmp_path: Path) -> None:
    report = run(environment, tmp_path, "autopeft", "doctor")
    assert "torch" in report
    assert "peft" in report


@pytest.mark.parametrize("command", ["spaces", "methods"])
def test_presets_and_methods_come_with_the_wheel(
    environment: Path, tmp_path: Path, command: str
) -> None:
    listed = run(environment, tmp_path, "autopeft", command)
    assert "lora" in listed


def test_a_job_runs_and_its_winner_is_exported(environment: Path, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(
        "name: tiny\n"
        "model: builtin:minilm\n"
        "data: {train: rows.jsonl, limit: {train: 32, validation: 16, test: 16}}\n"
        "training: {batch_size: 8, max_tokens: 16, steps: 4}\n"
        "budget: {trials: 2}\n"
        "proposer: random\n"
        "workers: {executor: inline}\n"
    )
    rows = [f'{{"text": "{w} one {i}", "label": "{w}"}}\n' for i in range(40) for w in ("a", "b")]
    (tmp_path / "rows.jsonl").write_text("".join(rows))
    run(environment, tmp_path, "autopeft", "search", "job.yaml", "--output", "runs/tiny")
    assert '"completed"' in run(
        environment, tmp_path, "autopeft", "show", "runs/tiny", "--format", "json"
    )
    export = ("autopeft", "export", "runs/tiny", "--pick", "best", "--to", "peft", "out")
    run(environment, tmp_path, *export)
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
