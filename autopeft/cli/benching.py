"""``autopeft bench``: record tables of real training runs, compare optimisers on them."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from autopeft.cli import failures
from autopeft.cli.progress import create_progress
from autopeft.errors import InvalidJobError
from autopeft.naming import counted
from autopeft.service.job_checks import find_warnings
from autopeft.service.job_spec import load_job

if TYPE_CHECKING:
    from autopeft.bench.table import Table

#: Where a table lies in its recording's folder.
TABLE_FILE = "table.parquet"


def record(
    job: Path,
    overrides: Mapping[str, Any],
    *,
    num_configurations: int,
    num_repeated: int,
    write_to: Path | None,
) -> None:
    """Record a table of a job's task, or go on with one.

    Raises:
        AutopeftError: job file, numbers, data, model or space are wrong.
    """
    if num_configurations < 2:
        raise InvalidJobError(
            f"--configurations {num_configurations}: a table holds at least 2",
            hint="200 tell optimisers apart, 20 tell whether a task is worth recording",
        )
    if not 0 <= num_repeated <= num_configurations:
        raise InvalidJobError(
            f"--repeated {num_repeated}: expected 0 to {num_configurations}, the number of "
            "configurations",
            hint="40 configurations with further seeds tell how large the noise is",
        )
    spec = load_job(job, overrides)
    folder = Path(spec.output)
    path = write_to or folder / TABLE_FILE
    for warning in find_warnings(spec):
        failures.warn(warning)
    failures.job_folder.set(folder)
    from autopeft.bench.recording import num_trials_of, record_table
    from autopeft.bench.table import table_of

    typer.echo(
        f"recording {counted(num_configurations, 'configuration')} in "
        f"{counted(num_trials_of(num_configurations, num_repeated), 'trial')}, in {folder}",
        err=True,
    )
    try:
        with create_progress(Console(stderr=True)) as progress:
            log = record_table(
                spec,
                folder,
                num_configurations=num_configurations,
                num_repeated=num_repeated,
                observer=progress,
            )
    except KeyboardInterrupt:
        typer.echo(
            f"\ninterrupted; nothing recorded is lost. The same command goes on with it: "
            f"autopeft bench table {shlex.quote(str(job))} ...",
            err=True,
        )
        raise typer.Exit(failures.INTERRUPTED) from None
    table = table_of(log, hardware=hardware_text())
    table.write(path)
    for line in summary(table):
        typer.echo(line)
    typer.echo(f"Table: {path}")


def summary(table: Table) -> list[str]:
    """Return what there is to say of a table, one line each."""
    finals = table.finals()
    rows = table.rows
    lines = [
        f"{table.name}: {counted(rows['key'].nunique(), 'configuration')}, "
        f"{counted(rows['trial'].nunique(), 'trial')}, rungs at "
        f"{', '.join(map(str, table.rungs))} of {table.max_steps} steps"
    ]
    if len(finals):
        metric = table.facts["metric"]
        low, high = finals[f"metric:{metric}"].min(), finals[f"metric:{metric}"].max()
        lines.append(f"final {metric}: {low:.4g} to {high:.4g}")
    broken = rows[~rows["status"].isin(["completed"])]["trial"].nunique()
    if broken:
        lines.append(f"{counted(broken, 'trial')} did not reach the end")
    noise = table.noise()
    if noise.num_configurations > 1:
        verdict = "" if noise.is_enough else ": too noisy to compare optimisers on"
        lines.append(f"{noise}{verdict}")
    return lines


def hardware_text() -> str:
    """Return what this machine computes on, for people."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return f"{name}, {counted(os.cpu_count() or 1, 'core')}"
