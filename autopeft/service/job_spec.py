"""``JobSpec``: what a user wrote, validated at once, with every problem reported together.

A job file is one YAML mapping::

    name: sst2                                # default: the file's own name
    model: builtin:minilm                     # hub name | folder | builtin:minilm | mapping
    data:                                     # or one string: builtin:docstrings | hub name
      train: sst2/train.jsonl                 # relative to this file
      validation: sst2/validation.jsonl
      test: sst2/test.jsonl
      limit: {train: 2000, validation: 800}
    task: auto
    space: default                            # a preset, a YAML file, or a mapping
    objectives: [accuracy, num_trainable_parameters, train_memory_bytes]
    training: {batch_size: 32, max_tokens: 128, steps: 96, schedule: cosine}
    budget: {trials: 24}
    proposer: mobo
    stopper: extrapolate
    workers: {num: 1, cpus: 2, gpus: 0}
    seed: 0
    output: runs/sst2                         # relative to the working folder

Paths of data, model, space and output may hold ``~`` and environment variables as
``${NAME}``. Nothing here imports torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from autopeft.errors import InvalidJobError
from autopeft.naming import counted
from autopeft.records import COST_NAMES, NUM_TRAINABLE_PARAMETERS, TRAIN_MEMORY_BYTES
from autopeft.service.job_checks import find_problems
from autopeft.service.job_problems import KeyPath, Problem, problems_of
from autopeft.service.job_settings import BudgetSettings, JobSettings
from autopeft.service.job_yaml import read_job_file
from autopeft.service.raw_job import (
    apply_changes,
    drop_empty_sections,
    expand_paths,
    find_not_finite,
)

SCHEMA_VERSION = 1

DEFAULT_COSTS = (NUM_TRAINABLE_PARAMETERS, TRAIN_MEMORY_BYTES)


class JobSpec(JobSettings):
    """A validated job: everything a driver needs, with or without the job file.

    Attributes:
        name: Name of the job.
        output: Folder of the job, relative to the working folder it was started in.
        base: Absolute folder that relative paths of data, model and space start from.
    """

    name: str
    output: str
    base: Path

    @property
    def score_metric(self) -> str | None:
        """The metric among the objectives; None stands for the task's own."""
        return next((name for name in self.objectives or () if name not in COST_NAMES), None)

    @property
    def cost_names(self) -> tuple[str, ...]:
        """The costs among the objectives."""
        if self.objectives is None:
            return DEFAULT_COSTS
        return tuple(name for name in self.objectives if name in COST_NAMES)

    @property
    def folder(self) -> Path:
        """The job's folder, absolute."""
        return Path(self.output).absolute()

    def with_budget(self, **limits: float) -> Self:
        """Return the same job with other limits.

        Args:
            limits: New limits by name (``trials``, ``steps``, ``minutes``); the others stay.

        Raises:
            InvalidJobError: a limit is unknown, not positive, or not whole where it counts.
        """
        try:
            budget = BudgetSettings.model_validate({**self.budget.model_dump(), **limits})
        except ValidationError as error:
            problems = [
                _line(Problem(("budget", *found.path), found.text), {}, ())
                for found in problems_of(error, BudgetSettings)
            ]
            raise InvalidJobError("the budget is wrong:", problems=problems) from error
        return self.model_copy(update={"budget": budget})

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dictionary that :meth:`from_json` reads back."""
        return {"schema_version": SCHEMA_VERSION, **self.model_dump(mode="json")}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> JobSpec:
        """Read what :meth:`to_json` wrote; no file is looked at.

        Raises:
            InvalidJobError: another schema version, or not a job.
        """
        version = data.get("schema_version")
        if version != SCHEMA_VERSION:
            raise InvalidJobError(
                f"the job has schema version {version!r}, this AutoPEFT reads {SCHEMA_VERSION}",
                hint="open it with the AutoPEFT version that wrote it",
            )
        try:
            return cls.model_validate({k: v for k, v in data.items() if k != "schema_version"})
        except ValidationError as error:
            problems = [_line(found, {}, ()) for found in problems_of(error, cls)]
            raise InvalidJobError("the recorded job is damaged:", problems=problems) from error


#: What a job need not have where the shapes of its model are all that is asked for.
_MORE_THAN_SHAPES: tuple[KeyPath, ...] = (("model", "name"), ("data",), ("workers",), ("output",))


def load_job(
    path: str | Path, overrides: Mapping[str, Any] | None = None, *, shapes_only: bool = False
) -> JobSpec:
    """Read and validate a job file.

    Args:
        path: The job file.
        overrides: Values by dotted key, such as ``{"budget.trials": 8}``; they replace what
            the file says, or add to it.
        shapes_only: Pass over weights, data files and workers that are not there.

    Raises:
        InvalidJobError: with *every* problem found, not the first alone.
    """
    path = Path(path)
    text = read_job_file(path)
    stem = re.sub(r"[^\w.-]+", "-", path.stem).lstrip("._-") or "job"
    return parse_job(
        text.values,
        base=path.parent.absolute(),
        overrides=overrides,
        name=stem,
        source=f"job file {path}",
        lines=text.lines,
        shapes_only=shapes_only,
    )


def parse_job(
    values: Mapping[str, Any],
    *,
    base: Path,
    overrides: Mapping[str, Any] | None = None,
    name: str = "job",
    source: str = "the job",
    lines: Mapping[KeyPath, int] | None = None,
    shapes_only: bool = False,
) -> JobSpec:
    """Validate a job given as a mapping in the job file's format.

    Args:
        values: The mapping; it is not changed.
        base: Folder that relative paths start from.
        overrides: As for :func:`load_job`.
        name: Name of the job where ``values`` gives none.
        source: What messages call the job.
        lines: Line of each key in the file, where there is one.
        shapes_only: As for :func:`load_job`.

    Raises:
        InvalidJobError: with every problem found.
    """
    raw = deepcopy(dict(values))
    changes = {tuple(key.split(".")): value for key, value in (overrides or {}).items()}
    problems = apply_changes(raw, changes)
    drop_empty_sections(raw)
    problems += expand_paths(raw)
    problems += find_not_finite(raw)
    settings, found = _validate(raw)
    problems += found
    skip = {problem.path for problem in problems}
    if shapes_only:
        skip.update(_MORE_THAN_SHAPES)
    spec = _complete(settings, base=base, name=name)
    problems += [p for p in find_problems(spec) if not _is_under(p.path, skip)]
    if problems:
        lines = lines or {}
        ordered = sorted(problems, key=lambda problem: _line_number(problem.path, lines))
        texts = dict.fromkeys(_line(problem, lines, changes) for problem in ordered)
        count = counted(len(texts), "problem")
        raise InvalidJobError(f"{source} has {count}:", problems=list(texts))
    return _with_space_inside(spec)


def _validate(raw: dict[str, Any]) -> tuple[JobSettings, list[Problem]]:
    """Validate; where that fails, validate what is left without the keys that are wrong.

    So a misspelt key in one section does not hide a missing file in another.
    """
    try:
        return JobSettings.model_validate(raw, strict=True), []
    except ValidationError as error:
        problems = problems_of(error, JobSettings)
    for problem in problems:
        _remove(raw, problem.path)
    while True:
        try:
            return JobSettings.model_validate({**_STANDINS, **raw}, strict=True), problems
        except ValidationError as error:
            for found in error.errors():
                raw.pop(str(found["loc"][0]), None)


def _remove(raw: dict[str, Any], path: KeyPath) -> None:
    parent: Any = raw
    for key in path[:-1]:
        parent = parent.get(key) if isinstance(parent, dict) else None
    if isinstance(parent, dict) and path[-1] in parent:
        del parent[path[-1]]
    else:
        raw.pop(path[0], None)


def _complete(settings: JobSettings, *, base: Path, name: str) -> JobSpec:
    named = settings.name or name
    output = str(Path("runs") / named) if settings.output is None else settings.output
    fields = {**dict(settings), "name": named, "output": output, "base": base.absolute()}
    return JobSpec.model_validate(fields)


def _with_space_inside(spec: JobSpec) -> JobSpec:
    """Take the files a space is in into the job, so that a resume does not need them."""
    from autopeft.search_spaces.space_files import preset_names, self_contained

    if isinstance(spec.space, str) and spec.space in preset_names():
        return spec
    return spec.model_copy(update={"space": self_contained(spec.space, base=spec.base)})


def _is_under(path: KeyPath, skip: set[KeyPath]) -> bool:
    return any(path[: len(bad)] == bad or bad[: len(path)] == path for bad in skip)


def _line_number(path: KeyPath, lines: Mapping[KeyPath, int]) -> float:
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return math.inf


def _line(problem: Problem, lines: Mapping[KeyPath, int], changes: Iterable[KeyPath]) -> str:
    number = _line_number(problem.path, lines)
    is_changed = any(problem.path[: len(path)] == path for path in changes)
    where = "" if is_changed or math.isinf(number) else f" (line {number})"
    return f"{'.'.join(problem.path)}{where}: {problem.text}"


#: What takes the place of a required section that is wrong, while the others are checked.
_STANDINS: Mapping[str, Any] = {
    "model": {"name": "builtin:minilm"},
    "data": {"name": "builtin:docstrings"},
}
