"""The commands under ``autopeft bench`` and their flags; each imports what it needs when run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

bench = typer.Typer(
    name="bench",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="Record real trainings in a table, and compare optimisers on such tables.",
)


@bench.command(
    epilog="Example: autopeft bench table banking77.yaml --configurations 200 "
    "--set training.steps=96"
)
def table(
    job: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job file.")],
    configurations: Annotated[
        int, typer.Option(metavar="N", help="Distinct configurations in the table.")
    ] = 200,
    repeated: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Configurations trained from further seeds, 20 of them random, the others the "
            "best; tells the noise.",
            show_default="40, or all where there are fewer",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Folder of the recording.", show_default="runs/NAME-table"
        ),
    ] = None,
    write_to: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where the table goes.", show_default="table.parquet in DIR"
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Trials trained at the same time.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Any setting of the job file, e.g. training.steps=96"
        ),
    ] = None,
) -> None:
    """Record a table of a job's task: whole curves of many configurations, some from more seeds.

    Every configuration is trained to the end and measured at six rungs. It can be interrupted;
    the same command goes on where it was, and with a larger --configurations the table grows.
    """
    from autopeft.cli.benching import record
    from autopeft.service.job_spec import load_job
    from autopeft.service.raw_job import parse_override

    overrides = dict(parse_override(text) for text in settings or [])
    flags = {"workers.num": workers}
    overrides.update({key: value for key, value in flags.items() if value is not None})
    if output is None and "output" not in overrides:
        output = f"runs/{load_job(job, overrides).name}-table"
    if output is not None:
        overrides["output"] = output
    record(
        job,
        overrides,
        num_configurations=configurations,
        num_repeated=min(40, configurations) if repeated is None else repeated,
        write_to=write_to,
    )
