"""Run the command line inside the test process and see what a person would."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from autopeft.cli import main


@dataclass(frozen=True)
class Outcome:
    """What a command printed and the code it ended with."""

    code: int
    stdout: str
    stderr: str


def run_command(capsys: pytest.CaptureFixture[str], *arguments: str) -> Outcome:
    capsys.readouterr()
    code = main(arguments)
    captured = capsys.readouterr()
    return Outcome(code, captured.out, captured.err)
