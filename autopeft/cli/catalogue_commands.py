"""Commands about what there is, and their flags: build, spaces, methods, doctor."""

from __future__ import annotations

from typing import Annotated

import typer

from autopeft.cli.flags import ListFormat, TableFormat
from autopeft.cli.typer_app import command


@command(example="autopeft build docstring-lm")
def build(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="docstring-lm or its tiny twin.")],
    force: Annotated[
        bool, typer.Option("--force", help="Build it anew, also where it is there already.")
    ] = False,
    format_: ListFormat = TableFormat.TABLE,
) -> None:
    """Build a small language model on this machine, without a network, and keep it.

    docstring-lm is pretrained on the docstrings of the installed libraries, in about 20 minutes
    on two idle cores, at most 25. A search that names builtin:docstring-lm does the same at its
    first use. Ctrl-C is safe: the next call goes on where this one stopped.
    """
    from autopeft.cli.building import build as run

    run(model, force=force, format_=format_.value)


@command(example="autopeft spaces --format json")
def spaces(format_: ListFormat = TableFormat.TABLE) -> None:
    """List the search spaces that a job file can name."""
    from autopeft.cli.catalogue import spaces as run

    run(format_.value)


@command(example="autopeft methods --model Qwen/Qwen3-0.6B --task causal-lm")
def methods(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Tell what is available on this base model, and why the rest is not.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(metavar="TASK", help="What the model is for.", show_default=False),
    ] = None,
    format_: ListFormat = TableFormat.TABLE,
) -> None:
    """List the PEFT methods that can be searched: sizes, placement, tasks, where they run."""
    from autopeft.cli.catalogue import methods as run

    run(format_.value, model=model, task=task)


@command(example="autopeft doctor")
def doctor(format_: ListFormat = TableFormat.TABLE) -> None:
    """Tell versions and devices, what is missing, and the command that installs it."""
    from autopeft.cli.doctor import doctor as run

    run(format_.value)
