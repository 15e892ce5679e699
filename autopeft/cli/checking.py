"""``autopeft check``: say what is wrong with a job file, or print the schema of job files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from autopeft.cli import failures
from autopeft.errors import InvalidJobError, JobFolderError

if TYPE_CHECKING:
    from autopeft.service.examination import ReadData
    from autopeft.service.job_spec import JobSpec


def check(
    job: Path | None, *, schema: bool, overrides: Mapping[str, Any], wants_free: bool = False
) -> None:
    """Check ``job``, or print the schema.

    Args:
        job: The job file.
        schema: Whether the schema is asked for.
        overrides: Values for keys of the job file.
        wants_free: Whether an output folder that is taken is an error; else it is warned of.

    Raises:
        InvalidJobError: the job has problems; or neither was asked for, or both.
        JobFolderError: the output folder is taken and was to be free.
    """
    if schema == (job is not None):
        raise InvalidJobError(
            "give either a job file or --schema" + (", not both" if schema else ""),
            hint="autopeft check JOB.yaml, or autopeft check --schema",
        )
    if job is not None:
        _check_job(job, overrides, wants_free=wants_free)
        return
    from autopeft.service.job_schema import schema_text

    typer.echo(schema_text(), nl=False)


def _check_job(job: Path, overrides: Mapping[str, Any], *, wants_free: bool) -> None:
    """Say what is wrong with a job, as a search would; trains, downloads and builds nothing.

    Raises:
        AutopeftError: job file, data, model or space are wrong, or do not go together.
    """
    from autopeft.service.job_checks import find_warnings
    from autopeft.service.job_problems import show
    from autopeft.service.job_spec import load_job
    from autopeft.service.job_training import searched_training

    spec = load_job(job, overrides)
    for warning in find_warnings(spec):
        failures.warn(warning)
    _look_at_folder(spec, wants_free=wants_free)
    from autopeft.service.examination import examine_at_hand

    found = examine_at_hand(spec)
    limits = [f"{limit:g} {name}" for name, limit in spec.budget.limits.items()]
    space = f"space {spec.space}" if isinstance(spec.space, str) else _named(spec.space)
    typer.echo(
        f"{job} is fine: {spec.name}, {spec.model.name} on {spec.data.name or spec.data.train}, "
        f"{space}, {' or '.join(limits)}, output {spec.output}",
    )
    if searched := searched_training(spec):
        told = "; ".join(
            f"{name} {' or '.join(map(show, values))}" for name, values in searched.items()
        )
        typer.echo(f"training settings that are searched: {told}")
    if found.read is not None:
        typer.echo(_described(found.read))
    for name in found.missing:
        typer.echo(f"not checked yet: {name} is read when the search starts")


def _named(space: Mapping[str, Any]) -> str:
    """Say which preset a space builds on, where it does on one."""
    if "preset" in space:
        return f"space {space['preset']} with changes"
    return "a space of its own"


def _look_at_folder(spec: JobSpec, *, wants_free: bool) -> None:
    """Say that a search would not start: the job is fine, but its folder is in use."""
    from autopeft.service.jobs import JobFolder

    try:
        JobFolder(Path(spec.output)).require_free()
    except JobFolderError as error:
        if wants_free:
            raise
        failures.warn(f"{error.message}; {error.hint}")


def _described(read: ReadData) -> str:
    """Say what was found in the data."""
    splits, names = read.splits, read.encoding.id2label
    rows = ", ".join(f"{len(split)} {name}" for name, split in splits.splits.items())
    classes = "" if names is None else f" of {len(names)} classes ({_some(names)})"
    texts = " and ".join(splits.text_columns)
    label = "" if splits.label_column is None else f", label in {splits.label_column}"
    goal = read.goal
    return f"data: {rows} rows; {goal.task}{classes} from {texts}{label}; scored by {goal.metric}"


def _some(names: Sequence[str], limit: int = 4) -> str:
    return ", ".join([*names[:limit], *(["..."] if len(names) > limit else [])])
