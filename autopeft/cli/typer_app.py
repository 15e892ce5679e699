"""The command line's frame: its help, what stands before a command, and how commands join it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

CommandFunction = TypeVar("CommandFunction", bound=Callable[..., None])

app = typer.Typer(
    name="autopeft",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Search for the parameter-efficient fine-tuning configuration worth training.",
    epilog="Start with: autopeft search examples/quickstart.yaml",
)


def command(*, example: str) -> Callable[[CommandFunction], CommandFunction]:
    """Register a command whose docstring is its help and which teaches by an example."""

    def add(function: CommandFunction) -> CommandFunction:
        paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
        text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        app.command(help=text, epilog=f"Example: {example}")(function)
        return function

    return add


def _show_version(value: bool) -> None:
    if value:
        import autopeft

        typer.echo(f"autopeft {autopeft.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere.")
    ] = False,
) -> None:
    """Keep the options that stand before a command; ``main`` acts on ``--debug``."""
