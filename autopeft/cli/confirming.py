"""``autopeft confirm``: winner against tuned LoRA, retrained, on the test split."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from autopeft.cli import failures
from autopeft.cli.progress import create_progress
from autopeft.results.report import bytes_text, count_text, metric_value
from autopeft.service.jobs import open_job

if TYPE_CHECKING:
    from autopeft.service.confirmation import Confirmation, Finalist


def confirm(
    folder: Path,
    *,
    pick: str,
    against: Path | None,
    num_seeds: int,
    format_: str,
    where: Sequence[str] = (),
) -> None:
    """Retrain and compare; print a table or JSON."""
    for needed in (folder, *([against] if against else [])):
        open_job(needed)  # a wrong folder is told before anything heavy is imported
    from autopeft.service.confirmation import confirm_job

    failures.job_folder.set(folder)
    try:
        with create_progress(Console(stderr=True)) as progress:
            result = confirm_job(
                folder,
                which=pick,
                against=against,
                num_seeds=num_seeds,
                observer=progress,
                where=where,
            )
    except KeyboardInterrupt:
        again = f"autopeft confirm {shlex.quote(str(folder))}"
        typer.echo(f"\ninterrupted; what was trained is kept. Go on with: {again}", err=True)
        raise typer.Exit(failures.INTERRUPTED) from None
    if format_ == "json":
        typer.echo(json.dumps(result.to_json(), indent=2, allow_nan=False, ensure_ascii=False))
    else:
        _print(result, Console())


def _print(result: Confirmation, console: Console) -> None:
    table = Table(title=f"Test split, {result.num_test_rows} rows, never seen in the search")
    titles = ("", "trial", "in the search", f"test {result.metric}", "by seed", "size", "memory")
    for title in titles:
        table.add_column(title, justify="left" if title in ("", "by seed") else "right")
    for role, finalist in (("winner", result.winner), ("tuned LoRA", result.baseline)):
        table.add_row(role, *_cells(finalist, result.metric))
    console.print(table)
    for role, finalist in (("winner", result.winner), ("tuned LoRA", result.baseline)):
        console.print(f"{role}: {finalist.state.trial.configuration}", highlight=False)
    if result.where:
        console.print(f"Asked for: {_asked(result)}.", highlight=False, soft_wrap=True)
    if result.answer_metric is not None:
        values = "; ".join(
            f"{role} {finalist.answer_mean:.4f} ({_by_seed(finalist.answer_values)})"
            for role, finalist in (("winner", result.winner), ("tuned LoRA", result.baseline))
        )
        console.print(f"Generated answers, {result.answer_metric}: {values}", highlight=False)
    low, high = result.interval
    over = "over seeds and test rows"
    if result.num_seeds == 1:
        over = "over test rows only; one seed says nothing about the spread over seeds"
    console.print(
        f"Difference: {result.difference:+.4f}, 95 % interval [{low:+.4f}, {high:+.4f}] "
        f"{over}.\nVerdict: {result.verdict}.",
        highlight=False,
        soft_wrap=True,
    )


def _asked(result: Confirmation) -> str:
    limits = " and ".join(result.where)
    if result.baseline_keeps_where:
        return f"{limits}; the tuned LoRA keeps it too"
    return f"{limits}; no tuned LoRA keeps it, so the winner stands against the best of all"


def _cells(finalist: Finalist, metric: str) -> list[str]:
    costs = finalist.state.trial.costs
    return [
        str(finalist.state.trial.number),
        f"{metric_value(finalist.state, metric):.4f}",
        f"{finalist.mean:.4f}",
        _by_seed(finalist.metric_values),
        count_text(costs.num_trainable_parameters),
        bytes_text(costs.train_memory_bytes),
    ]


def _by_seed(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)
