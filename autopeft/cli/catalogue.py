"""``autopeft spaces`` and ``autopeft methods``: what can be named in a job file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

#: Columns of a terminal from which the table of methods shows tasks and papers.
WIDE = 150

if TYPE_CHECKING:
    from autopeft.records import ModelShape
    from autopeft.search_spaces.method import Method

#: Heads that transformers names by their task.
_TASK_OF_HEAD = {
    "ForTokenClassification": "token-classification",
    "ForMultipleChoice": "multiple-choice",
    "ForImageClassification": "image-classification",
    "ForAudioClassification": "audio-classification",
}


def spaces(format_: str) -> None:
    """Print the preset spaces as ``table`` or ``json``."""
    from autopeft.search_spaces.space_files import preset_description, preset_names, preset_text

    rows = [
        {"name": name, "description": preset_description(name), "yaml": preset_text(name)}
        for name in preset_names()
    ]
    if format_ == "json":
        _print_json(rows)
        return
    table = Table("space", "what it holds", title="Search spaces", title_justify="left")
    for row in rows:
        table.add_row(row["name"], row["description"])
    Console().print(table)
    typer.echo(
        "\nIn a job file: `space: NAME`, or a YAML file of your own, for example:\n\n"
        "methods:\n"
        "  lora:\n"
        "    rank: [4, 8, 16]\n"
        "    sites: [q, v]\n"
        "    learning_rate: [2.0e-4, 5.0e-3]\n"
        "  ia3:\n"
    )


def methods(format_: str, model: str | None = None, task: str | None = None) -> None:
    """Print the methods as ``table`` or ``json``.

    Args:
        format_: ``table`` or ``json``.
        model: Name of a base model, as in a job file; tells what is available on it. Without
            one, sizes are those on Llama-3.1-8B, or on BERT-base where that lacks something.
        task: Task the model is for; by default what its config says it was published for,
            else classification.
    """
    from autopeft.search_spaces.method import METHODS, get_method

    shapes = _shapes(model, task)
    rows = [_row(get_method(name), shapes, is_named=model is not None) for name in METHODS.names()]
    if format_ == "json":
        _print_json(rows)
        return
    title = f"PEFT methods on {shapes[0].name}, {shapes[0].task}" if model else "PEFT methods"
    offered = [row for row in rows if row["unavailable"] is None]
    console = Console()
    console.print(_table(offered, title, is_wide=console.width >= WIDE))
    if not model:
        typer.echo(f"Parameters are counted on {' or '.join(shape.name for shape in shapes)}.")
    if len(offered) < len(rows):
        typer.echo(f"\nNot available{' on this model' if model else ''}:")
    for row in rows:
        if row["unavailable"] is not None:
            typer.echo(f"  {row['name']}: {row['unavailable']}")
    for remark in dict.fromkeys(each for row in offered for each in row["remarks"]):
        typer.echo(f"\n{_about(remark, offered)}: {remark}")
    if console.width < WIDE:
        typer.echo(
            f"\nA terminal of {WIDE} columns shows more (tasks, papers); --format json has all."
        )


def _table(rows: list[dict[str, Any]], title: str, *, is_wide: bool) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    headings = ["method", "family", "parameters", "layers", "merges", "serves"]
    for heading in headings + (["dims", "saved", "tasks", "paper"] if is_wide else []):
        table.add_column(heading, no_wrap=heading != "tasks", overflow="fold")
    for row in rows:
        sizes = row["parameters"]
        serving = [name for name in row["deployable"] if name != "merged"]
        cells = [
            row["name"],
            row["family"],
            f"{_short(sizes['smallest'])}-{_short(sizes['largest'])}" if sizes else "-",
            "any" if row["is_placeable"] else "all",
            "yes" if row["is_mergeable"] else "no",
            " ".join(serving) or "-",
        ]
        if is_wide:
            cells.append(str(row["num_dimensions"]) if sizes else "-")
            cells += [row["saved_as"], ", ".join(row["tasks"]) or "any", row["paper"]]
        table.add_row(*cells)
    return table


def _about(remark: str, rows: list[dict[str, Any]]) -> str:
    """Say which methods a remark is about, by those that it is not about where they are fewer."""
    about = [row["name"] for row in rows if remark in row["remarks"]]
    others = [row["name"] for row in rows if remark not in row["remarks"]]
    if len(others) < len(about):
        return f"All methods but {' and '.join(others)}" if others else "All methods"
    return ", ".join(about)


def _row(method: Method, shapes: tuple[ModelShape, ...], *, is_named: bool) -> dict[str, Any]:
    """Return everything there is to say of a method, on the first shape that it is offered on."""
    from autopeft.search_spaces.extent import extent_of

    offered = [shape for shape in shapes if method.unavailable(shape) is None]
    shape = next(iter(offered), None)
    extent = extent_of(method, shape) if shape else None
    rates = method.learning_rate
    return {
        "name": method.name,
        "title": method.title,
        "family": method.family,
        "paper": method.paper,
        "num_dimensions": extent.num_dimensions if extent else 0,
        "parameters": (
            {"on": shape.name, "smallest": extent.smallest, "largest": extent.largest}
            if extent and shape
            else None
        ),
        "is_placeable": method.is_placeable,
        "is_combinable": method.is_combinable,
        "tasks": sorted(method.tasks or ()),
        "is_mergeable": method.is_mergeable,
        "deployable": _deployable(method, shape),
        "saved_as": method.saved_as,
        "remarks": list(method.remarks(shape)) if shape and is_named else [],
        "learning_rate": {"low": rates.low, "default": rates.default, "high": rates.high},
        "unavailable": (
            None if shape else method.unavailable(shapes[0]) if is_named or not offered else None
        ),
    }


def _deployable(method: Method, shape: ModelShape | None) -> list[str]:
    """Return where a trained adapter can run."""
    from autopeft.search_spaces.method import Deploy

    if shape is None:
        return []
    ways: tuple[Deploy, ...] = ("merged", "peft", "vllm")
    found = []
    for way in ways:
        try:
            method.deploy_values(shape, way)
        except ValueError:
            continue
        found.append(str(way))
    return found


def _shapes(model: str | None, task: str | None) -> tuple[ModelShape, ...]:
    """Return the shape of a named model, or those of two well-known ones."""
    from autopeft.search_spaces.extent import reference_shape

    if model is None and task is None:
        return reference_shape(is_decoder=True), reference_shape(is_decoder=False)
    from autopeft.errors import ModelError
    from autopeft.workers.model_sources import resolve_config
    from autopeft.workers.models import load_config
    from autopeft.workers.settings import ModelSettings
    from autopeft.workers.shapes import model_shape
    from autopeft.workers.task_names import CAUSAL_LM
    from autopeft.workers.tasks.base import TASKS

    if model is None:
        assert task is not None
        is_decoder = TASKS.get(task).name == CAUSAL_LM
        return (replace(reference_shape(is_decoder=is_decoder), task=task),)
    if task is not None:
        TASKS.get(task)  # a name that is no task is told before the model is looked at
    source = resolve_config(ModelSettings.model_validate({"name": model}), Path.cwd())
    published = load_config(source, 0)
    problems: list[ModelError] = []
    for name in (task,) if task else _tasks_of(published):
        outputs = 2 if TASKS.get(name).has_head else 0
        try:
            config = load_config(source, outputs, None, name)
            return (model_shape(source, config, name),)
        except ModelError as error:
            problems.append(error)
    raise problems[0]


def _tasks_of(config: Any) -> tuple[str, ...]:
    """Return the tasks to try on a model: what it was published for, then what it may take."""
    from autopeft.workers import task_names as names

    classifiers = (
        names.CLASSIFICATION,
        names.IMAGE_CLASSIFICATION,
        names.AUDIO_CLASSIFICATION,
    )
    for architecture in config.architectures or ():
        if "CausalLM" in architecture or "LMHead" in architecture:
            return (names.CAUSAL_LM, *classifiers)
        if "ForConditionalGeneration" in architecture:
            first = names.SEQ2SEQ_LM if config.is_encoder_decoder else names.CAUSAL_LM
            return (first, *classifiers)
        for ending, task in _TASK_OF_HEAD.items():
            if ending in architecture:
                return (task, *classifiers)
    return classifiers


def _short(number: int) -> str:
    """Write a count in three digits."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
