"""What the README tells people to type: every command parses, and the Python runs."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import plotly.graph_objects as go
import pytest
import typer
import yaml

from autopeft.cli.app import app
from autopeft.service.job_spec import parse_job
from tests.examples.job_folder import write_finished_job

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = sorted(
    {
        line.split("#")[0].strip()
        for block in blocks("sh")
        for line in block.splitlines()
        if line.startswith("autopeft ")
    }
    | set(re.findall(r"`(autopeft [a-z][^`]*)`", README))
)


def test_the_readme_has_commands() -> None:
    assert {"search", "resume", "show", "export", "confirm", "check"} <= {
        command.split()[1] for command in COMMANDS
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses(command: str, repository: Path) -> None:
    words = shlex.split(command)[1:]
    group = typer.main.get_command(app)
    with group.make_context("autopeft", words) as context:
        name, subcommand, rest = group.resolve_command(context, words)  # type: ignore[attr-defined]
        assert name == words[0]
        with subcommand.make_context(name, rest, parent=context) as inner:
            assert inner.params
    for word in words:
        if word.startswith("examples/"):
            assert (repository / word).is_file()


def test_make_targets_exist(repository: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (repository / "Makefile").read_text(), re.MULTILINE))

    assert set(re.findall(r"\bmake ([a-z-]+)", README)) <= targets


def test_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks("python")
    write_finished_job(tmp_path / "runs" / "sst2")
    monkeypatch.chdir(tmp_path)
    shown: list[go.Figure] = []
    monkeypatch.setattr(go.Figure, "show", lambda figure: shown.append(figure))

    exec(compile(code, "README.md", "exec"), {})

    assert len(shown) == 1


def test_the_job_file_of_the_readme_is_valid(tmp_path: Path) -> None:
    (text,) = blocks("yaml")
    for name in ("train", "validation", "test"):
        (tmp_path / "sst2").mkdir(exist_ok=True)
        (tmp_path / "sst2" / f"{name}.jsonl").write_text('{"text": "a", "label": 0}\n')
    cpus = min(2, os.cpu_count() or 1)

    spec = parse_job(yaml.safe_load(text), base=tmp_path, overrides={"workers.cpus": cpus})

    assert spec.proposer == "mobo"


def test_links_of_the_readme_lead_somewhere(repository: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (repository / target).exists(), target
