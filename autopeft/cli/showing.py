"""``autopeft show``: a job as a table, as JSON or as CSV."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from autopeft.naming import counted
from autopeft.records import TrialStatus
from autopeft.results.correlation import correlation_text
from autopeft.results.front_table import front_table
from autopeft.results.limits import limit_lines
from autopeft.results.query import ask, memory_text
from autopeft.results.report import (
    calibration_text,
    front_of,
    memory_error_text,
    metric_value,
    summary,
    trials_frame,
)
from autopeft.service.jobs import open_job

if TYPE_CHECKING:
    from autopeft.results.job_log import JobLog
    from autopeft.results.query import Answer

#: No table is as wide as this.
NO_TERMINAL_WIDTH = 1000
#: Trials that are listed with the constraint they break.
NUM_BROKEN = 8


def show(folder: Path, format_: str, where: Sequence[str] = ()) -> None:
    """Print the job in ``folder``, or what of it keeps limits: ``table``, ``json`` or ``csv``.

    Raises:
        AutopeftError: no job is there, a limit cannot be read, or nothing keeps all of them.
    """
    log = open_job(folder)
    answer = ask(log, where) if where else None
    if format_ == "json":
        typer.echo(json.dumps(summary(log, answer), indent=2, allow_nan=False, ensure_ascii=False))
    elif format_ == "csv":
        typer.echo(trials_frame(log, answer).to_csv(index=False), nl=False)
    elif answer is not None:
        print_answer(log, answer, result_console())
        asked = " ".join(f"--where {shlex.quote(each)}" for each in where)
        typer.echo(f"Export it: autopeft export {shlex.quote(str(folder))} {asked} OUT")
    else:
        print_job(log, result_console())


def result_console() -> Console:
    """Return where results are printed: as wide as the terminal, unlimited where there is none.

    A line that is piped into another program stays one line; ``COLUMNS`` sets another width.
    """
    console = Console()
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Console(width=NO_TERMINAL_WIDTH)


def _broken(by_trial: Mapping[str, Sequence[str]]) -> list[str]:
    """Say what keeps completed trials off the front."""
    if not by_trial:
        return []
    lines = [f"{counted(len(by_trial), 'completed trial')} not on the front for a constraint:"]
    shown = list(by_trial.items())[:NUM_BROKEN]
    lines += [f"  trial {number}: {'; '.join(broken)}" for number, broken in shown]
    if len(by_trial) > NUM_BROKEN:
        lines.append(f"  and {len(by_trial) - NUM_BROKEN} more, all in `--format csv`")
    return lines


def unmet_constraints(log: JobLog) -> str | None:
    """Say which constraints kept a finished job from having a front; None where none did."""
    scale = log.scale
    if scale is None or not scale.constraints or log.end_reason is None or front_of(log):
        return None
    completed = [state for state in log.trials if state.status is TrialStatus.COMPLETED]
    if not completed:
        if log.trials:
            return None
        return f"no configuration was found that keeps {' and '.join(map(str, scale.constraints))}"
    told = []
    for constraint in scale.constraints:
        alone = replace(scale, constraints=(constraint,))
        num_broken = sum(bool(alone.broken_constraints(state)) for state in completed)
        if num_broken:
            told.append(f"{constraint}, which {num_broken} of {len(completed)} break")
    return f"no completed trial keeps all constraints: {'; '.join(told)}"


def _unfinished(log: JobLog) -> str:
    limits = {**(log.spec or {}).get("budget", {}), **log.budget}
    of = f" of {limits['trials']:g}" if limits.get("trials") else ""
    begun = f"{len(log.states)}{of} trials" if of else counted(len(log.states), "trial")
    return f"Not finished: {begun} begun. If no search is running, `autopeft resume` goes on."


def print_answer(log: JobLog, answer: Answer, console: Console) -> None:
    """Print the front of what keeps a query's limits, and the best of it."""
    console.print(front_table(log, answer))
    best, metric = answer.best, answer.scale.metric
    lines = [
        f"{len(answer.allowed)} of {counted(answer.num_completed, 'completed trial')} keep "
        f"{'this limit' if len(answer.conditions) == 1 else 'these limits'}.",
        f"Best: trial {best.trial.number}, {metric} {metric_value(best, metric):.4f}.",
    ]
    if (memory := memory_text(answer)) is not None:
        lines.append(memory)
    if log.end_reason is None:
        lines.append(_unfinished(log))
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def print_job(log: JobLog, console: Console) -> None:
    """Print the front as a table, how many trials became what, and how the job ended."""
    facts = summary(log)
    if front_of(log):
        console.print(front_table(log))
    elif (unmet := unmet_constraints(log)) is not None:
        console.print(f"There is no front: {unmet}.", highlight=False, soft_wrap=True)
    else:
        console.print("No trial has completed yet, so there is no front.", highlight=False)
    counts = [f"{number} {name}" for name, number in facts["trials"].items() if number]
    if facts["num_unfinished"]:
        counts.append(f"{facts['num_unfinished']} unfinished")
    lines = [f"Trials: {', '.join(counts) or 'none'}."]
    lines += _broken(facts["broken_constraints"])
    if facts["hypervolume"] is not None:
        lines.append(f"Hypervolume: {facts['hypervolume']:.4f}.")
    if (correlation := correlation_text(log)) is not None:
        lines.append(correlation)
    lines += [told for told in (memory_error_text(log), calibration_text(log)) if told]
    lines += limit_lines(log)
    end = facts["end_reason"]
    lines.append(f"Ended: {end}." if end else _unfinished(log))
    console.print("\n".join(lines), highlight=False, markup=False)
