"""``autopeft build``: progress, what came out, and names that are not there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from autopeft.workers.pretraining import building, recipe
from autopeft.workers.pretraining.progress import BuildProgress, OnProgress
from autopeft.workers.pretraining.recipe import RECIPES
from tests.cli.running import run_command

NAME = "docstring-lm-tiny"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = replace(
        RECIPES[NAME], libraries=("rich", "typer"), num_per_library=80, num_tokens=16, steps=2,
        evaluation_steps=1, vocab_size=300, hidden_size=16, intermediate_size=24,
    )  # fmt: skip
    monkeypatch.setattr(recipe, "RECIPES", {NAME: small})
    monkeypatch.setenv("AUTOPEFT_CACHE", str(tmp_path))


def test_it_builds_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first = run_command(capsys, "build", NAME)
    assert first.code == 0
    assert f"builtin:{NAME} is built: 0.0" in first.stdout
    assert f"`model: builtin:{NAME}`" in first.stdout
    assert str(tmp_path) in first.stdout
    assert "training 2 of 2, 0:00 left" in first.stderr
    again = run_command(capsys, "build", f"builtin:{NAME}", "--format", "json")
    assert again.code == 0
    card = json.loads(again.stdout)
    assert card["recipe"]["name"] == NAME
    assert Path(card["folder"], "config.json").is_file()
    assert again.stderr == ""
    assert "is there already" in run_command(capsys, "build", NAME).stdout


def test_an_unknown_model_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    result = run_command(capsys, "build", "docstring-lm-tinny")
    assert result.code == 2
    assert "did you mean 'docstring-lm-tiny'?" in result.stderr


def test_an_interrupted_build_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(name: str, *, on_progress: OnProgress, force: bool) -> Path:
        on_progress(BuildProgress(stage="training", done=1, total=2))
        raise KeyboardInterrupt

    monkeypatch.setattr(building, "build", build)
    result = run_command(capsys, "build", NAME)
    assert result.code == 130
    assert f"Continue with: autopeft build {NAME}" in result.stderr


def test_the_help_says_how_long_it_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert RECIPES["docstring-lm"].duration == "about 20 minutes on two idle cores, at most 25"
    shown = " ".join(run_command(capsys, "build", "--help").stdout.split())
    assert RECIPES["docstring-lm"].duration in shown
