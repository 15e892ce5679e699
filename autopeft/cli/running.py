"""``autopeft search`` and ``autopeft resume``."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from autopeft.cli import failures
from autopeft.cli.progress import create_progress
from autopeft.cli.showing import print_job, result_console, unmet_constraints
from autopeft.results.report import front_of
from autopeft.service.job_checks import find_warnings
from autopeft.service.job_spec import load_job

if TYPE_CHECKING:
    from autopeft.results.job_log import JobLog
    from autopeft.service.observer import Observer


def search(job: Path, overrides: Mapping[str, Any]) -> None:
    """Start the job that a job file describes and work on it to the end of its budget."""
    spec = load_job(job, overrides)
    for warning in find_warnings(spec):
        failures.warn(warning)
    folder = Path(spec.output)

    def work(observer: Observer) -> JobLog:
        from autopeft.service.running import run_job

        return run_job(spec, folder, observer=observer)

    _run(work, folder)


def resume(folder: Path, limits: Mapping[str, float]) -> None:
    """Continue the job in ``folder``."""

    def work(observer: Observer) -> JobLog:
        from autopeft.service.running import resume_job

        return resume_job(folder, observer=observer, budget=dict(limits) or None)

    _run(work, folder)


def next_commands(folder: Path, *, has_front: bool = True) -> list[str]:
    """Return what makes sense to type after a search, ready to be pasted."""
    where = shlex.quote(str(folder))
    winner = shlex.quote(f"{str(folder).rstrip('/')}-winner")
    export = f"autopeft export {where} --pick knee --to peft {winner}"
    notebook = f"import autopeft; autopeft.open({str(folder)!r}).plot_front()  # in a notebook"
    return [f"autopeft show {where} --format json", *([export] if has_front else []), notebook]


def _run(work: Callable[[Observer], JobLog], folder: Path) -> None:
    failures.job_folder.set(folder)
    try:
        with create_progress(Console(stderr=True)) as progress:
            log = work(progress)
    except KeyboardInterrupt:
        command = f"autopeft resume {shlex.quote(str(folder))}"
        typer.echo(f"\ninterrupted; nothing recorded is lost. Continue with: {command}", err=True)
        raise typer.Exit(failures.INTERRUPTED) from None
    print_job(log, result_console())
    typer.echo("\nNext:")
    for command in next_commands(folder, has_front=bool(front_of(log))):
        typer.echo(f"  {command}")
    if (unmet := unmet_constraints(log)) is not None:
        failures.say("error", f"the search found nothing: {unmet}", colour=typer.colors.RED)
        hint = "relax the constraint in the job file, and search again in another folder"
        failures.say("hint", hint, colour=typer.colors.CYAN)
        raise typer.Exit(failures.WRONG_INPUT)
