"""A real driver, killed with SIGKILL at random moments, ten times over one search."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from autopeft.errors import JobFolderError
from autopeft.records import TrialStatus
from autopeft.results.job_log import JobLog
from autopeft.results.sqlite_store import SqliteStore
from autopeft.service.jobs import JobFolder, open_job
from tests.service.tiny_job import write_tiny_job

NUM_KILLS = 10


def start(*arguments: str, cwd: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "autopeft", *arguments],
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def found(log: JobLog) -> list[tuple[Any, ...]]:
    return [
        (
            state.trial.number,
            state.trial.configuration,
            state.status,
            [(m.step, m.score) for m in state.curve],
        )
        for state in log.trials
    ]


def log_of(folder: Path) -> JobLog:
    """Return the log as it stands; empty while the driver is still making it."""
    try:
        return open_job(folder)
    except JobFolderError:
        return JobLog()


def completed(folder: Path) -> set[int]:
    log = log_of(folder)
    return {s.trial.number for s in log.trials if s.status is TrialStatus.COMPLETED}


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["inline", pytest.param("ray", marks=pytest.mark.ray)])
def test_driver_killed_ten_times_measures_everything_once(tmp_path: Path, executor: str) -> None:
    changes = {
        "training": {"batch_size": 8, "max_tokens": 12, "steps": 256},
        "budget": {"trials": 20},
        "workers": {"executor": executor, "cpus": 1},
    }
    whole = write_tiny_job(tmp_path / "whole", **changes)
    assert start("search", str(whole), cwd=whole.parent).wait(900) == 0
    path = write_tiny_job(tmp_path / "killed", **changes)
    folder = path.parent / "run"
    generator = random.Random(0)
    promised: set[int] = set()
    lengths = []

    process = start("search", str(path), cwd=path.parent)
    for kill in range(NUM_KILLS):
        _wait_for_growth(folder, process)
        time.sleep(generator.uniform(0.0, 2.5))
        assert process.poll() is None, f"the job ended before kill {kill}"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert promised <= completed(folder), "a completed trial was lost"
        promised = completed(folder)
        lengths.append(open_job(folder).num_entries)
        process = start("resume", str(folder), cwd=path.parent)
    assert process.wait(900) == 0

    assert lengths == sorted(set(lengths)), "a driver made no progress before it was killed"
    store = SqliteStore(JobFolder(folder).log, read_only=True)
    measured = [
        (entry.data["trial"], entry.data["step"])
        for entry in store.read()
        if entry.kind == "measurement"
    ]
    store.close()
    assert len(measured) == len(set(measured))
    assert promised <= completed(folder)
    assert open_job(folder).num_runs == NUM_KILLS + 1
    assert found(open_job(folder)) == found(open_job(whole.parent / "run"))


def _wait_for_growth(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until the driver has recorded a new measurement."""
    deadline = time.monotonic() + 300
    before = log_of(folder).total_steps
    while time.monotonic() < deadline:
        if log_of(folder).total_steps > before:
            return
        assert process.poll() is None, "the driver ended by itself"
        time.sleep(0.1)
    raise AssertionError("the driver recorded nothing for five minutes")
