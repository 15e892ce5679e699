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


@bench.command(
    epilog="Example: autopeft bench optimisers --table banking77 --proposers "
    "mobo+extrapolate,random+mo-asha --seeds 10"
)
def optimisers(
    table: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="T",
            help="A recorded table: a parquet file, or a name in benchmarks/tables; several times "
            "for several.",
            show_default="all in benchmarks/tables",
        ),
    ] = None,
    proposers: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Arms, each a proposer with a stopper: mobo+extrapolate,random+none.",
            show_default="those that suggest within a second, each with none and mo-asha",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", help="Searches of each arm.")] = 30,
    budget: Annotated[
        int,
        typer.Option(metavar="B", help="What each search may spend, in trainings to the end."),
    ] = 100,
    world: Annotated[
        str,
        typer.Option(
            metavar="W",
            help="lookup: search the table's rows; surrogate: the whole space, foretold by trees "
            "fitted to them; both.",
        ),
    ] = "lookup",
    workers: Annotated[
        int, typer.Option(metavar="N", help="Simulated workers of each search.")
    ] = 1,
    jobs: Annotated[int, typer.Option(metavar="N", help="Searches run at the same time.")] = 1,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Where results, runs and plots go.")
    ] = Path("benchmarks/optimisers"),
) -> None:
    """Compare optimisers on recorded tables: cost to the target, hypervolume, recall, regret.

    Every search is simulated with the real proposers and stoppers. Those that ended are kept in
    DIR/runs.jsonl and not run again, so a comparison can be interrupted, and grow.
    """
    from autopeft.cli.optimiser_bench import compare

    compare(
        table or [],
        [arm.strip() for arm in (proposers or "").split(",") if arm.strip()],
        num_seeds=seeds,
        budget=budget,
        workers=workers,
        world=world,
        jobs=jobs,
        folder=output,
    )
