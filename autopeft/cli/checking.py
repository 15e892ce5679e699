"""``autopeft check``: say what is wrong with a job file, or print the schema of job files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from autopeft.cli import failures
from autopeft.errors import InvalidJobError

if TYPE_CHECKING:
    from autopeft.service.job_spec import JobSpec


def check(job: Path | None, *, schema: bool, overrides: Mapping[str, Any]) -> None:
    """Check ``job``, or print the schema.

    Raises:
        InvalidJobError: the job has problems; or neither was asked for, or both.
    """
    if schema == (job is not None):
        raise InvalidJobError(
            "give either a job file or --schema" + (", not both" if schema else ""),
            hint="autopeft check JOB.yaml, or autopeft check --schema",
        )
    if job is not None:
        _check_job(job, overrides)
        return
    from autopeft.service.job_schema import schema_text

    typer.echo(schema_text(), nl=False)


def _check_job(job: Path, overrides: Mapping[str, Any]) -> None:
    from autopeft.service.job_checks import find_warnings
    from autopeft.service.job_spec import load_job

    spec = load_job(job, overrides)
    for warning in find_warnings(spec):
        failures.warn(warning)
    data = _check_data(spec)
    limits = [
        f"{limit:g} {name}" for name, limit in spec.budget.model_dump().items() if limit is not None
    ]
    space = spec.space if isinstance(spec.space, str) else spec.space.get("name", "its own")
    typer.echo(
        f"{job} is fine: {spec.name}, {spec.model.name} on {spec.data.name or spec.data.train}, "
        f"space {space}, {' or '.join(limits)}, output {spec.output}",
    )
    typer.echo(data)


def _check_data(spec: JobSpec) -> str:
    """Read local data as a search would, and say what was found; loads no model.

    Raises:
        AutopeftError: the data cannot be read, or task and objectives do not fit it.
    """
    if spec.data.name is not None:
        return f"not checked yet: {spec.data.name} is read when the search starts"
    from autopeft.service.preparation import split_objectives
    from autopeft.workers.loading import load_splits
    from autopeft.workers.tasks.base import TASKS, infer_task

    splits = load_splits(spec.data, base=spec.base, seed=spec.seed, task=spec.task)
    task = infer_task(splits) if spec.task == "auto" else spec.task
    metric, _ = split_objectives(spec.objectives, task)
    encoding = TASKS.get(task)().encode_labels(splits)
    rows = ", ".join(f"{len(split)} {name}" for name, split in splits.splits.items())
    names = encoding.id2label
    classes = "" if names is None else f" of {len(names)} classes ({_some(names)})"
    texts = " and ".join(splits.text_columns)
    label = "" if splits.label_column is None else f", label in {splits.label_column}"
    return f"data: {rows} rows; {task}{classes} from {texts}{label}; scored by {metric}"


def _some(names: Sequence[str], limit: int = 4) -> str:
    return ", ".join([*names[:limit], *(["..."] if len(names) > limit else [])])
