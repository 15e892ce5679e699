"""The tiny model of ``tiny.py``, once for all tests of this room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autopeft.records import ModelShape
from autopeft.workers.models import load_config, load_model
from autopeft.workers.worker import WorkerPlan
from tests.workers import tiny


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a random BERT of a few thousand weights."""
    return tiny.write_model(tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture(scope="session")
def tiny_plan(tiny_folder: Path) -> WorkerPlan:
    """Return rows and shape for it; three classes."""
    return tiny.make_plan(tiny_folder)


@pytest.fixture(scope="session")
def tiny_shape(tiny_plan: WorkerPlan) -> ModelShape:
    """Return its shape with three outputs."""
    return tiny_plan.shape


@pytest.fixture(scope="session")
def tiny_base(tiny_plan: WorkerPlan) -> Any:
    """Return the frozen model itself; no test may change it."""
    config = load_config(tiny_plan.source, 3, tiny.CLASSES, "classification")
    return load_model(tiny_plan.source, config)
