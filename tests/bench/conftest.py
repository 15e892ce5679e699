"""One table for all tests that only read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopeft.bench.table import Table
from tests.bench.fake_table import make_table


@pytest.fixture(scope="package")
def table_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    make_table(folder)
    return folder


@pytest.fixture(scope="package")
def table(table_folder: Path) -> Table:
    from autopeft.bench.table import read_table

    return read_table(table_folder / "fake.parquet")
