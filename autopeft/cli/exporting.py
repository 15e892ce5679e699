"""``autopeft export``: write a trial for a training tool."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from autopeft.cli import failures
from autopeft.naming import counted


def export(
    folder: Path, *, pick: str | None, tool: str, target: Path, where: Sequence[str] = ()
) -> None:
    """Export the picked trial of the job in ``folder`` and say what was checked.

    Where nothing is picked it is the knee of the front, or the best that keeps the limits.
    """
    from autopeft.service.jobs import open_job

    open_job(folder)  # a wrong folder is told before anything heavy is imported
    from autopeft.service.exports import export_trial

    failures.job_folder.set(folder)
    report = export_trial(
        folder,
        pick=pick or ("best" if where else "knee"),
        tool=tool,
        target=target,
        where=where,
    )
    typer.echo(
        f"trial {report.trial} ({report.metric} {report.metric_value:.4f}) is in {report.target}"
    )
    if report.unverified is None:
        rows = counted(report.num_rows, "validation row")
        typer.echo(f"loaded back and compared: all {rows} come out equal")
    else:
        failures.warn(f"not compared with what was measured: {report.unverified}")
    typer.echo(f"{target / 'README.md'} says how to load it")
