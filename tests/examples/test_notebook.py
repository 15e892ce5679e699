"""``examples/inspect.ipynb`` runs from top to bottom, on a job written for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.examples.job_folder import STOP_REASON, write_finished_job

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")


@pytest.fixture(scope="module")
def notebook(repository: Path) -> Any:
    return nbformat.read(repository / "examples" / "inspect.ipynb", as_version=4)


def test_the_notebook_is_kept_without_outputs(notebook: Any) -> None:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells
    assert [cell for cell in cells if cell.outputs or cell.execution_count is not None] == []


def test_the_notebook_runs_and_shows_the_job(
    notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOPEFT_RUN", str(write_finished_job(tmp_path / "job")))
    client = nbclient.NotebookClient(
        nbformat.from_dict(notebook), timeout=120, resources={"metadata": {"path": str(tmp_path)}}
    )
    executed = client.execute()
    outputs = [out for cell in executed.cells for out in cell.get("outputs", ())]
    shown = json.dumps(outputs)
    assert "3 completed, 2 stopped" in shown
    assert STOP_REASON in shown
    # Steps left out: 24 of trial 3 and 16 of trial 4, of five times 32.
    assert "stopping saved 25% of the steps" in shown
    assert [out for out in outputs if out.output_type == "stream" and out.name == "stderr"] == []
    figures = [
        out.data["application/vnd.plotly.v1+json"]
        for out in outputs
        if "application/vnd.plotly.v1+json" in out.get("data", {})
    ]
    assert len(figures) == 2
    assert all(figure["data"] for figure in figures)
