"""``autopeft plan``: what fits into memory, and what a search will cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from autopeft.cli import failures
from autopeft.cli.progress import create_progress
from autopeft.cli.showing import result_console
from autopeft.errors import InvalidJobError
from autopeft.results.report import bytes_text, count_text
from autopeft.service.job_checks import find_warnings
from autopeft.service.job_spec import load_job
from autopeft.sizes import parse_bytes
from autopeft.workers.openmp import share_cores

if TYPE_CHECKING:
    from autopeft.service.planning import Plan, Row
    from autopeft.service.quote import Quote

#: What the table's words stand for.
SIZES = (
    "Sizes are the smallest, the default and the largest that the space can propose, by trainable "
    "parameters. Parts are those at the peak, which is during the phase named."
)
#: What the table has no place for.
FOOTNOTE = (
    "Not counted: the CUDA context and what the allocator keeps beyond what is in use, together "
    "often several hundred MiB."
)


def plan(
    job: Path,
    overrides: Mapping[str, Any],
    *,
    gpu_memory: str | None,
    tokens: int | None,
    asks_quote: bool,
    plot: Path | None,
    format_: str,
) -> None:
    """Print what fits and, where it is asked for, what the search will cost.

    Without ``--gpu-memory``, ``--tokens`` and ``--plot``, ``--quote`` tells of the cost alone.

    Raises:
        AutopeftError: job file, options, model or space are wrong.
    """
    share_cores()
    from autopeft.service.plan_chart import check_ending, write_chart
    from autopeft.service.planning import make_plan

    asks_memory = not asks_quote or any(each is not None for each in (gpu_memory, tokens, plot))
    limit = None if gpu_memory is None else _size(gpu_memory)
    if plot is not None:
        check_ending(plot)
        if not plot.parent.is_dir():
            raise InvalidJobError(
                f"--plot {plot}: there is no folder {str(plot.parent)!r}",
                hint="make it, or name another place",
            )
    spec = load_job(job, overrides, shapes_only=not asks_quote)
    if asks_quote:
        for warning in find_warnings(spec):
            failures.warn(warning)
    found: Plan | None = None
    told: Quote | None = None
    with create_progress(Console(stderr=True)) as progress:
        if asks_memory:
            found = make_plan(
                spec, limit_bytes=limit, tokens=tokens, on_progress=progress.on_progress
            )
        if asks_quote:
            from autopeft.service.quote import quote_ahead

            told = quote_ahead(spec, progress)
    if found is not None and plot is not None:
        write_chart(found, plot)
    if format_ == "json":
        facts = {
            **({} if found is None else found.to_json()),
            **({} if told is None else {"quote": told.to_json()}),
        }
        typer.echo(json.dumps(facts, indent=2, allow_nan=False, ensure_ascii=False))
        return
    if found is not None:
        _print_plan(found)
    if told is not None:
        typer.echo(f"This search: {told}.")
    if plot is not None:
        typer.echo(f"Chart: {plot}")


def _print_plan(plan: Plan) -> None:
    from autopeft.service.plan_chart import subtitle

    console = result_console()
    table = Table(title=f"{plan.model}, space {plan.space}", title_justify="left", box=SIMPLE_HEAD)
    headings = ["weights", "adapter + optimiser", "activations", "transients", "peak"]
    for heading in ("method", "size"):
        table.add_column(heading)
    for heading in ("parameters", *headings):
        table.add_column(heading, justify="right")
    table.add_column("during")
    if plan.limit_bytes is not None:
        table.add_column(f"in {bytes_text(plan.limit_bytes)}")
        table.add_column("largest batch", justify="right")
    for row in plan.rows:
        table.add_row(*_cells(row))
    console.print(table)
    lines = [f"{subtitle(plan)}.", SIZES, _verdict(plan)]
    if plan.check is not None:
        check = plan.check
        error = abs(check.estimated_bytes / check.exact_bytes - 1)
        lines.append(
            f"Checked: {check.method} with a batch of {check.batch_size} is "
            f"{bytes_text(check.estimated_bytes)} by the table, {bytes_text(check.exact_bytes)} "
            f"when every tensor is followed ({error:.1%} apart)."
        )
    lines += [f"Note: {note}." for note in plan.notes]
    lines.append(FOOTNOTE)
    console.print("\n".join(line for line in lines if line), highlight=False, markup=False)


def _cells(row: Row) -> list[str]:
    parts = row.components
    together = parts["adapter"] + parts["gradients"] + parts["optimizer_state"]
    cells = [
        row.method,
        row.size,
        count_text(row.num_trainable_parameters),
        bytes_text(parts["weights"]),
        bytes_text(together),
        bytes_text(parts["activations"]),
        bytes_text(parts["transients"]),
        f"{'~' if row.is_approximate else ''}{bytes_text(row.total_bytes)}",
        row.phase,
    ]
    if row.left_bytes is not None:
        left = bytes_text(abs(row.left_bytes))
        cells.append(f"fits, {left} left" if row.fits else f"{left} too much")
        cells.append(str(row.largest_batch) if row.largest_batch else "none")
    return cells


def _verdict(plan: Plan) -> str:
    """Say in one line what fits."""
    if plan.limit_bytes is None:
        return "--gpu-memory tells what fits, and the largest batch."
    limit = bytes_text(plan.limit_bytes)
    methods = list(dict.fromkeys(row.method for row in plan.rows))
    fitting = [m for m in methods if any(row.fits for row in plan.rows if row.method == m)]
    if not fitting:
        least = min(plan.rows, key=lambda row: row.total_bytes)
        return (
            f"Nothing fits into {limit}: the least, {least.method} ({least.size}), needs "
            f"{bytes_text(least.total_bytes)}, of which {bytes_text(least.components['weights'])} "
            "are the frozen weights."
        )
    number = sum(bool(row.fits) for row in plan.rows)
    return f"{number} of {len(plan.rows)} configurations fit into {limit}."


def _size(text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise InvalidJobError(f"--gpu-memory: {error}") from error
