"""The examples of ``docs/integrations.md``: they read what there is, and they run."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
FILES = {found[1]: block for block in BLOCKS if (found := re.match(r"# (\w+\.py)\n", block))}


def test_examples_are_there() -> None:
    assert set(FILES) == {"my_task.py", "tune_search.py", "optuna_search.py"}


@pytest.mark.parametrize("block", BLOCKS)
def test_what_is_imported_exists(block: str) -> None:
    if "optuna" in block:
        pytest.importorskip("optuna", reason="the extra optuna is not installed")
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("autopeft"):
            module = importlib.import_module(str(node.module))
            assert [name.name for name in node.names if not hasattr(module, name.name)] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param("tune_search.py", marks=pytest.mark.ray), "optuna_search.py"]
)
def test_examples_run(name: str, tmp_path: Path) -> None:
    if "optuna" in name:
        pytest.importorskip("optuna", reason="the extra optuna is not installed")
    for file, text in FILES.items():
        (tmp_path / file).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, name],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    front = re.findall(r"(?:lora|ia3|beft|prefix).*lr=", done.stdout)
    assert front, done.stdout[-2000:]
