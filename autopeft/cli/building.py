"""``autopeft build``: pretrain a built-in language model and say what came out."""

from __future__ import annotations

import json
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from autopeft.cli import failures
from autopeft.workers.pretraining.building import is_built, model_folder, read_card
from autopeft.workers.pretraining.progress import BuildProgress
from autopeft.workers.pretraining.recipe import get_recipe


def build(name: str, *, force: bool, format_: str) -> None:
    """Build the model called ``name`` and print its card as ``table`` or ``json``.

    Raises:
        ModelError: there is no such recipe, or the cache cannot be written.
    """
    from autopeft.workers.openmp import share_cores
    from autopeft.workers.pretraining import building

    recipe = get_recipe(name)
    was_built = is_built(name) and not force
    share_cores()
    try:
        with _Bar(Console(stderr=True)) as bar:
            building.build(name, on_progress=bar.show, force=force)
    except KeyboardInterrupt:
        command = f"autopeft build {recipe.name}"
        typer.echo(f"\ninterrupted; what is done is kept. Continue with: {command}", err=True)
        raise typer.Exit(failures.INTERRUPTED) from None
    card = read_card(name)
    if format_ == "json":
        typer.echo(json.dumps({**card, "folder": str(model_folder(name))}, indent=2))
        return
    typer.echo(_description(recipe.name, card, was_built=was_built))


def _description(name: str, card: dict[str, Any], *, was_built: bool) -> str:
    libraries = ", ".join(card["corpus"]["versions"])
    return (
        f"builtin:{name} is {'there already' if was_built else 'built'}: "
        f"{card['num_parameters'] / 1e6:.2f} M parameters, held-out perplexity "
        f"{card['held_out_perplexity']:.1f} over {card['num_held_out_tokens']} tokens\n"
        f"pretrained on {card['num_trained_tokens'] / 1e6:.2f} M tokens of {libraries} in "
        f"{card['train_seconds'] / 60:.1f} minutes\n"
        f"in {model_folder(name)}\n"
        f"In a job file: `model: builtin:{name}`"
    )


class _Bar:
    """A bar on a terminal, one line now and then elsewhere."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._console = console
        self._task = self._progress.add_task("starting", total=1, left="")
        self._stage = ""
        self._shown = 0

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def show(self, progress: BuildProgress) -> None:
        """Show how far a build is."""
        seconds = progress.seconds_left
        left = "" if seconds is None else f"{int(seconds) // 60}:{int(seconds) % 60:02d} left"
        self._progress.update(
            self._task,
            description=progress.stage,
            completed=progress.done,
            total=progress.total or 1,
            left=left,
        )
        tenths = 10 * progress.done // (progress.total or 1)
        is_news = progress.stage != self._stage or tenths != self._shown
        if self._progress.disable and is_news:
            self._console.print(str(progress), markup=False, highlight=False)
        self._stage, self._shown = progress.stage, tenths
