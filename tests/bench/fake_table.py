"""A recorded table without a single training: scores of the fake job, put in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopeft.bench import recording
from autopeft.bench.recording import record_table
from autopeft.bench.table import Table, read_table, table_of
from autopeft.records import FailureKind
from autopeft.service.observer import SilentObserver
from tests.service.fake_job import FakeJob, make_spec


def make_table(folder: Path, *, configurations: int = 24, repeated: int = 8) -> Table:
    """Record a table of which one trial diverges; it lies in ``folder/fake.parquet``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording, "NUM_PILOT", 6)
        job = FakeJob(patch)
        job.script[13, 0] = FailureKind.DIVERGED
        log = record_table(
            make_spec(folder / "recording"),
            folder / "recording",
            num_configurations=configurations,
            num_repeated=repeated,
            observer=SilentObserver(),
        )
    table_of(log, hardware="a machine").write(folder / "fake.parquet")
    return read_table(folder / "fake.parquet")
