"""``autopeft show``: a job as a table, as JSON or as CSV."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from autopeft.naming import counted
from autopeft.results.correlation import correlation_text
from autopeft.results.report import front_of, front_table, summary, trials_frame
from autopeft.service.jobs import open_job

if TYPE_CHECKING:
    from autopeft.results.job_log import JobLog


def show(folder: Path, format_: str) -> None:
    """Print the job in ``folder``: ``table``, ``json`` or ``csv``."""
    log = open_job(folder)
    if format_ == "json":
        typer.echo(json.dumps(summary(log), indent=2, allow_nan=False, ensure_ascii=False))
    elif format_ == "csv":
        typer.echo(trials_frame(log).to_csv(index=False), nl=False)
    else:
        print_job(log, Console())


def _unfinished(log: JobLog) -> str:
    limits = {**(log.spec or {}).get("budget", {}), **log.budget}
    of = f" of {limits['trials']:g}" if limits.get("trials") else ""
    return (
        f"Not finished: {len(log.states)}{of} trials begun. If no search is running, "
        "`autopeft resume` goes on."
    )


def print_job(log: JobLog, console: Console) -> None:
    """Print the front as a table, how many trials became what, and how the job ended."""
    facts = summary(log)
    if front_of(log):
        console.print(front_table(log))
    else:
        console.print("No trial has completed yet, so there is no front.", highlight=False)
    counts = [f"{number} {name}" for name, number in facts["trials"].items() if number]
    if facts["num_unfinished"]:
        counts.append(f"{facts['num_unfinished']} unfinished")
    lines = [f"Trials: {', '.join(counts) or 'none'}."]
    if facts["num_breaking_constraints"]:
        limits = ", ".join(map(str, log.scale.constraints if log.scale else ()))
        lines.append(
            f"{counted(facts['num_breaking_constraints'], 'completed trial')} not on the front "
            f"for breaking a constraint ({limits})."
        )
    if facts["hypervolume"] is not None:
        lines.append(f"Hypervolume: {facts['hypervolume']:.4f}.")
    if (correlation := correlation_text(log)) is not None:
        lines.append(correlation)
    end = facts["end_reason"]
    lines.append(f"Ended: {end}." if end else _unfinished(log))
    console.print("\n".join(lines), highlight=False, markup=False)
