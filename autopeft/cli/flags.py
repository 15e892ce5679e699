"""Arguments and flags that several commands take."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class TableFormat(StrEnum):
    """How a list is printed."""

    TABLE = "table"
    JSON = "json"


JobFile = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job file.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a job, its output.")]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="LIMIT",
        help="Only trials that keep it, in quotes: 'train_memory_bytes<=24GiB', "
        "'num_trainable_parameters<=2M', 'accuracy>=0.8'; can be repeated.",
        show_default=False,
    ),
]
ListFormat = Annotated[TableFormat, typer.Option("--format", help="How to print it.")]


def overrides_of(flags: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Join flags that were given and ``--set`` pairs; a flag wins over the same key set."""
    from autopeft.service.raw_job import parse_override

    overrides = dict(parse_override(text) for text in settings)
    return {**overrides, **{key: value for key, value in flags.items() if value is not None}}
