"""``autopeft check``: say what is wrong with a job file, or print the schema of job files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from autopeft.cli import failures
from autopeft.errors import InvalidJobError


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
    limits = [
        f"{limit:g} {name}" for name, limit in spec.budget.model_dump().items() if limit is not None
    ]
    space = spec.space if isinstance(spec.space, str) else spec.space.get("name", "its own")
    typer.echo(
        f"{job} is fine: {spec.name}, {spec.model.name} on {spec.data.name or spec.data.train}, "
        f"space {space}, {' or '.join(limits)}, output {spec.output}",
    )
