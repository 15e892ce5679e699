"""The example of a method in a package of its own: found, searched, saved and exported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.service.tiny_job import write_tiny_job

PACKAGE = "autopeft_offset"


@pytest.fixture(scope="module")
def installed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment in which the package is installed, as a wheel would install it."""
    place = tmp_path_factory.mktemp("site")
    source = repository / "examples" / "plugin"
    (place / PACKAGE).symlink_to(source / PACKAGE)
    facts = place / f"{PACKAGE}-0.1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: autopeft-offset\nVersion: 0.1.0\n"
    )
    lines = (source / "pyproject.toml").read_text().splitlines()
    start = lines.index('[project.entry-points."autopeft.methods"]')
    name, target = lines[start + 1].split(" = ")
    entry = f"[autopeft.methods]\n{name} = {target.strip(chr(34))}\n"
    (facts / "entry_points.txt").write_text(entry)
    path = os.pathsep.join([str(place), str(repository)])
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def python(code: str, environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def autopeft(arguments: list[str], environment: dict[str, str], folder: Path) -> str:
    code = f"import sys; from autopeft.cli import main; sys.exit(main({arguments!r}))"
    return python(code, environment, folder)


def test_it_takes_forty_lines(repository: Path) -> None:
    files = (repository / "examples" / "plugin" / PACKAGE).glob("*.py")
    lines = [line for file in files for line in file.read_text().splitlines() if line.strip()]

    assert len(lines) <= 40


def test_it_is_found_without_torch(installed: dict[str, str], tmp_path: Path) -> None:
    code = (
        "import sys; from autopeft.search_spaces.method import get_method;"
        "print(get_method('offset').title, 'torch' in sys.modules)"
    )

    assert python(code, installed, tmp_path).split() == ["Offset", "False"]


@pytest.mark.slow
def test_it_is_searched_saved_and_exported(installed: dict[str, str], tmp_path: Path) -> None:
    write_tiny_job(tmp_path, space={"methods": {"offset": {}}}, budget={"trials": 3})

    autopeft(["search", "tiny.yaml"], installed, tmp_path)
    said = autopeft(["export", "run", "out", "--pick", "best"], installed, tmp_path)
    facts = json.loads((tmp_path / "out" / "autopeft.json").read_text())
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())

    assert "validation rows come out equal" in said
    assert facts["needs_modules"] == [f"{PACKAGE}.layers"]
    assert config["peft_type"] == "OFFSET"
    # As a user of the export loads it, with the base model's folder in place of its name.
    code = (
        "import transformers, torch\n"
        f"import {PACKAGE}.layers\n"
        "from peft import PeftModel\n"
        "base = transformers.AutoModelForSequenceClassification.from_pretrained("
        "'tiny-bert', num_labels=3)\n"
        "model = PeftModel.from_pretrained(base, 'out').eval()\n"
        "merged = model.merge_and_unload()\n"
        "print([n for n, _ in merged.named_modules() if 'offset' in n])\n"
    )
    assert python(code, installed, tmp_path).strip() == "[]"
