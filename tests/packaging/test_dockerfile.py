"""Check ``docker/Dockerfile`` without a container engine."""

from __future__ import annotations

import fnmatch
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of a Dockerfile, continuation lines joined."""

    name: str
    arguments: str


def parse(text: str) -> tuple[Instruction, ...]:
    """Read a Dockerfile without heredocs."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    parts = [line.split(maxsplit=1) for line in joined.splitlines()]
    return tuple(Instruction(name.upper(), arguments) for name, arguments in parts)


@pytest.fixture(scope="module")
def instructions(repository: Path) -> tuple[Instruction, ...]:
    return parse((repository / "docker" / "Dockerfile").read_text())


@pytest.fixture(scope="module")
def last_stage(instructions: tuple[Instruction, ...]) -> tuple[Instruction, ...]:
    start = max(i for i, step in enumerate(instructions) if step.name == "FROM")
    return instructions[start:]


def copied_sources(instructions: tuple[Instruction, ...]) -> list[str]:
    """Paths of the build context that are copied; the other stages' are left out."""
    copies = [shlex.split(step.arguments) for step in instructions if step.name == "COPY"]
    own = [words for words in copies if not any(w.startswith("--from=") for w in words)]
    return [word for words in own for word in words[:-1] if not word.startswith("--")]


def test_parsing_joins_continuations() -> None:
    assert parse("# why\nRUN a \\\n    && b\n\nUSER 1\n") == (
        Instruction("RUN", "a && b"),
        Instruction("USER", "1"),
    )


def test_base_images_are_pinned_and_slim(instructions: tuple[Instruction, ...]) -> None:
    bases = {step.arguments.split()[0] for step in instructions if step.name == "FROM"}
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.11(\.\d+)?-slim-[a-z]+", bases.pop())


def test_the_job_runs_without_privileges(last_stage: tuple[Instruction, ...]) -> None:
    users = [step.arguments for step in last_stage if step.name == "USER"]
    assert users
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])
    after = last_stage[[step.name for step in last_stage].index("USER") :]
    assert {step.name for step in after}.isdisjoint({"RUN", "COPY"})


def test_the_image_runs_autopeft(last_stage: tuple[Instruction, ...]) -> None:
    entry = [step.arguments for step in last_stage if step.name == "ENTRYPOINT"]
    assert entry == ['["autopeft"]']
    volumes = [step.arguments for step in last_stage if step.name == "VOLUME"]
    assert volumes == ["/job/runs"]


def test_every_install_keeps_to_the_tested_versions(instructions: tuple[Instruction, ...]) -> None:
    runs = [step.arguments for step in instructions if step.name == "RUN"]
    installs = [run for run in runs if "pip install" in run]
    assert installs
    assert all("-c /tmp/constraints.txt" in run for run in installs)
    assert all("--no-cache-dir" in run for run in installs)


def test_nothing_is_fetched_by_url_and_no_secret_is_kept(
    instructions: tuple[Instruction, ...],
) -> None:
    assert "ADD" not in {step.name for step in instructions}
    kept = " ".join(step.arguments for step in instructions if step.name in ("ARG", "ENV"))
    assert not re.search(r"(?i)token|secret|password|api_?key|://[^/\s]+@", kept)


def test_copied_files_exist_and_reach_the_build(
    repository: Path, instructions: tuple[Instruction, ...]
) -> None:
    sources = copied_sources(instructions)
    assert sources
    assert [name for name in sources if not (repository / name).exists()] == []
    ignored = (repository / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    hidden = [n for n in sources if not any(fnmatch.fnmatch(n.strip("./"), a) for a in allowed)]
    assert not hidden
    assert not set(allowed) - {name.strip("./") for name in sources}


def test_hadolint_has_nothing_to_say(repository: Path) -> None:
    hadolint = shutil.which("hadolint", path=Path(sys.executable).parent) or shutil.which(
        "hadolint"
    )
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run(
        [hadolint, str(repository / "docker" / "Dockerfile")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
