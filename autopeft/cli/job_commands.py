"""Commands that work on a job, and their flags: search, resume, show, export, confirm."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from autopeft.cli.flags import Folder, JobFile, ListFormat, TableFormat, Where, overrides_of
from autopeft.cli.typer_app import command


class ShowFormat(StrEnum):
    """How a job is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


@command(example="autopeft search sst2.yaml --trials 12 --set training.batch_size=16")
def search(
    job: JobFile,
    output: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder of the job.", show_default="the file's"),
    ] = None,
    trials: Annotated[int | None, typer.Option(metavar="N", help="Trials to propose.")] = None,
    proposer: Annotated[
        str | None,
        typer.Option(
            metavar="P",
            help="What to try next: mobo, random, lora-sweep, evolution, local, optuna-tpe, "
            "optuna-nsga2, optuna-gp, bohb, ax, autopeft, autopeft-fair.",
        ),
    ] = None,
    stopper: Annotated[
        str | None,
        typer.Option(
            metavar="S",
            help="What to end early: halving, extrapolate, mo-asha, hyperband, median or none.",
        ),
    ] = None,
    executor: Annotated[
        str | None, typer.Option(metavar="E", help="Where trials run: ray or inline.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Trials trained at the same time.")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Seed of everything.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY.PATH=VALUE", help="Any key of the job file; can be repeated."
        ),
    ] = None,
) -> None:
    """Run the search that a job file describes.

    Shows progress, prints the Pareto front at the end and the commands that come next. Ctrl-C
    is safe: nothing recorded is lost, and `autopeft resume DIR` goes on. Flags win over the
    job file.
    """
    from autopeft.cli.running import search as run

    flags = {
        "output": output,
        "budget.trials": trials,
        "proposer": proposer,
        "stopper": stopper,
        "workers.executor": executor,
        "workers.num": workers,
        "seed": seed,
    }
    run(job, overrides_of(flags, set_ or []))


@command(example="autopeft resume runs/sst2 --trials 48")
def resume(
    folder: Folder,
    trials: Annotated[
        int | None, typer.Option(metavar="N", help="New limit of trials, for the whole job.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="New limit of optimiser steps.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(metavar="M", help="New limit of minutes.")
    ] = None,
    gpu_hours: Annotated[
        float | None, typer.Option(metavar="H", help="New limit of GPU-hours, or worker-hours.")
    ] = None,
) -> None:
    """Continue a job after Ctrl-C, a crash, or with a larger budget.

    Goes on where the log ends; a segment that was under way is trained again. On a finished
    job it only prints the front, unless a limit is raised.
    """
    from autopeft.cli.running import resume as run

    limits = {"trials": trials, "steps": steps, "minutes": minutes, "gpu_hours": gpu_hours}
    run(folder, {name: limit for name, limit in limits.items() if limit is not None})


@command(example="autopeft show runs/sst2 --format json")
def show(
    folder: Folder,
    format_: Annotated[
        ShowFormat,
        typer.Option("--format", help="table and json tell of the front, csv of every trial."),
    ] = ShowFormat.TABLE,
    where: Where = None,
) -> None:
    """Show what a job has found so far; the job may still run.

    With --where it shows the front of the completed trials within limits. Memory is the measured
    peak where there is one, else the calibrated prediction.
    """
    from autopeft.cli.showing import show as run

    run(folder, format_.value, where or [])


@command(example="autopeft export runs/sst2 --pick knee --to peft winner/")
def export(
    folder: Folder,
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder to write; must not exist yet.")
    ],
    pick: Annotated[
        str | None,
        typer.Option(
            metavar="WHICH",
            help="knee, best, smallest, or a number on the front.",
            show_default="knee; with --where best",
        ),
    ] = None,
    to: Annotated[str, typer.Option(metavar="TOOL", help="Training tool to write for.")] = "peft",
    where: Where = None,
) -> None:
    """Write one trial of a job for a training tool, checked before it is handed over.

    knee gives the best trade of the front, best the highest score, smallest the fewest
    trainable parameters. With --where it is the best that keeps the limits.
    """
    from autopeft.cli.exporting import export as run

    run(folder, pick=pick, tool=to, target=target, where=where or [])


@command(example="autopeft confirm runs/sst2 --against runs/sst2-lora --seeds 3")
def confirm(
    folder: Folder,
    pick: Annotated[
        str, typer.Option(metavar="WHICH", help="knee, best, smallest, or a trial's number.")
    ] = "best",
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A job of `--proposer lora-sweep` on the same data; default: this job's own "
            "LoRA-sweep trials.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Retrainings of each.")] = 3,
    format_: ListFormat = TableFormat.TABLE,
    where: Where = None,
) -> None:
    """Retrain the winner and the best tuned LoRA, and compare them on the test split.

    A score found by searching is too good to be true; this one is not: new seeds, and rows that
    nothing has seen. It says so when the winner is no better than plain LoRA.
    """
    from autopeft.cli.confirming import confirm as run

    run(
        folder,
        pick=pick,
        against=against,
        num_seeds=seeds,
        format_=format_.value,
        where=where or [],
    )
