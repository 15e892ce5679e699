"""Start a job or go on with one: prepare, record what was found, start the workers, drive."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from autopeft.errors import AutopeftError, InvalidJobError, JobFolderError
from autopeft.results import job_log
from autopeft.results.job_log import JobLog
from autopeft.results.sqlite_store import SqliteStore
from autopeft.results.store import Store
from autopeft.service.driver import IMPROBABLE, Driver, make_parts
from autopeft.service.job_spec import JobSpec
from autopeft.service.jobs import JobFolder, recorded_versions
from autopeft.service.kept_checkpoints import CheckpointFolder
from autopeft.service.last_step import keep_metric
from autopeft.service.observer import Observer
from autopeft.service.segment_costs import time_segments
from autopeft.service.starting import create_executor
from autopeft.service.worker_time import SECONDS_PER_HOUR
from autopeft.workers.openmp import share_cores

if TYPE_CHECKING:
    from collections.abc import Callable

    from autopeft.service.driver import Parts
    from autopeft.service.preparation import Prepared, Workbench

    MakeParts = Callable[[JobSpec, Workbench], Parts]


def run_job(
    spec: JobSpec, folder: Path, *, observer: Observer, make_parts: MakeParts = make_parts
) -> JobLog:
    """Start a job in a new or empty folder and work on it until its budget is spent.

    The folder and its first record exist before torch is imported.

    Args:
        spec: The job.
        folder: Where it lies.
        observer: Told of all that happens.
        make_parts: Makes what proposes and what stops.

    Raises:
        AutopeftError: the folder is taken, or data, model or space do not fit the job.
        KeyboardInterrupt: the log is complete; ``resume_job`` goes on.
    """
    paths = JobFolder(folder)
    made = paths.create()
    store = SqliteStore(paths.log)
    try:
        run = begin_run(store)
        store.append(
            run,
            "job",
            {"spec": spec.to_json(), "versions": recorded_versions()},
            unique="job",
        )
        return _work(spec, paths, store, run, observer, make_parts)
    except AutopeftError:
        # Nothing was found out and nothing is lost: leave no folder in the way of the next try.
        if job_log.fold(store.read()).total_steps == 0:
            store.close()
            paths.remove_empty_job(made)
        raise
    finally:
        store.close()


def resume_job(
    folder: Path,
    *,
    observer: Observer,
    budget: dict[str, float] | None = None,
    make_parts: MakeParts = make_parts,
) -> JobLog:
    """Continue a job after an interruption or a crash; return at once where it is finished.

    Args:
        folder: The job's folder.
        observer: Told of all that happens.
        budget: Larger limits than the recorded ones, by name (``trials``, ``steps``,
            ``minutes``, ``gpu_hours``); they are recorded and hold from now on. Who raises
            one of a job that ended early wants it to go on: then it does not end early again.
        make_parts: Makes what proposes and what stops.

    Raises:
        JobFolderError: no job is there, or another driver took it over.
        AutopeftError: the data changed since the job began.
    """
    paths = JobFolder(folder)
    paths.require()
    store = SqliteStore(paths.log)
    try:
        log = job_log.fold(store.read())
        if log.spec is None:
            raise JobFolderError(
                f"the job in {str(folder)!r} was interrupted before its job file was recorded",
                hint=f"delete the folder and start again: `autopeft search JOB.yaml "
                f"--output {folder}`",
            )
        if not budget and log.end_reason is not None:
            return log
        if budget and (log.end_reason or "").startswith(IMPROBABLE):
            budget = {**budget, "end_early": False}
        spec = JobSpec.from_json(log.spec).with_budget(**{**log.budget, **(budget or {})})
        _require_room(spec, log, budget or {})
        run = begin_run(store)
        if budget:
            store.append(run, "budget", budget)
        paths.checkpoints.mkdir(exist_ok=True)
        return _work(spec, paths, store, run, observer, make_parts)
    finally:
        store.close()


def _require_room(spec: JobSpec, log: JobLog, budget: dict[str, float]) -> None:
    """Refuse a new limit that the job has reached already."""
    spent = {
        "trials": (spec.budget.trials, len(log.states)),
        "steps": (spec.budget.steps, log.total_steps),
        "minutes": (spec.budget.minutes, log.spent_seconds / 60),
        "gpu_hours": (
            spec.budget.gpu_hours,
            (spec.workers.gpus or 1.0) * log.busy_seconds / SECONDS_PER_HOUR,
        ),
    }
    for name in budget:
        limit, used = spent.get(name, (None, 0.0))
        if limit is not None and used >= limit:
            flag = name.replace("_", "-")
            raise InvalidJobError(
                f"the job has used {used:g} {flag} already, a limit of {limit:g} leaves nothing "
                "to do",
                hint=f"give more, such as --{flag} {max(2 * used, 1):g}",
            )


def begin_run(store: Store) -> str:
    """Take over the log under a new run id."""
    run = uuid.uuid4().hex
    store.begin_run(run)
    return run


def _work(
    spec: JobSpec,
    paths: JobFolder,
    store: Store,
    run: str,
    observer: Observer,
    make_parts: MakeParts,
) -> JobLog:
    """Prepare, then drive until the budget is spent."""
    started = time.monotonic()
    observer.on_phase("loading libraries")
    share_cores()
    from autopeft.service.preparation import prepare

    log = job_log.fold(store.read())
    workbench = prepare(
        spec,
        scale=log.scale,
        on_phase=observer.on_phase,
        on_progress=observer.on_progress,
        kept_metric=paths.metric,
    )
    spec = spec.model_copy(update={"training": workbench.training})
    _record_prepared(workbench.prepared, store, run, log)
    if workbench.plan.generation is not None:
        keep_metric(workbench.plan.generation.metric, paths.metric)
    _write_assets(paths, workbench, spec)
    if spec.budget.gpu_hours is not None and log.timing is None and not log.states:
        observer.on_phase("timing a few steps")
        limit = spec.budget.gpu_hours * SECONDS_PER_HOUR / (spec.workers.gpus or 1.0)
        timed = time_segments(spec, workbench, observer.on_progress, most_seconds=limit)
        store.append(run, "timing", timed.to_json(), unique="timing")
    with create_executor(spec, paths.checkpoints, workbench) as executor:
        parts = make_parts(spec, workbench)
        kept = CheckpointFolder(paths.checkpoints)
        driver = Driver(spec, kept, store, run, observer, workbench, executor, started, parts)
        observer.on_phase("searching")
        return driver.drive()


def _record_prepared(prepared: Prepared, store: Store, run: str, log: JobLog) -> None:
    """Record what was found, or make sure that it is what was recorded."""
    if log.prepared is None:
        store.append(run, "prepared", prepared.to_json(), unique="prepared")
        return
    recorded = log.prepared
    if recorded["fingerprint"] != prepared.fingerprint:
        raise JobFolderError(
            "the data changed since the job began: its rows hash to "
            f"{prepared.fingerprint[:12]}, recorded was {recorded['fingerprint'][:12]}",
            hint="restore the data (and, for built-in data, the installed package versions), "
            "or start a new job",
        )
    if recorded["shape"] != prepared.shape.to_json():
        raise JobFolderError(
            f"the model changed since the job began: {prepared.shape.name} has another shape "
            "than the recorded one",
            hint="restore the model, or start a new job",
        )


def _write_assets(paths: JobFolder, workbench: Workbench, spec: JobSpec) -> None:
    """Write once what exports need of the model."""
    if paths.assets.exists():
        return
    from autopeft.workers.assets import write_assets
    from autopeft.workers.data.chat import read_chat_template

    prepared = workbench.prepared
    write_assets(
        paths.assets,
        workbench.plan.source,
        facts={
            "task": prepared.task,
            "metric": prepared.metric,
            "id2label": None if prepared.id2label is None else list(prepared.id2label),
            "num_labels": prepared.num_outputs,
            "max_tokens": workbench.max_tokens,
            "text_columns": list(prepared.text_columns),
            "input_roles": list(prepared.input_roles),
            "is_conversational": workbench.is_conversational,
            "dtype": spec.model.dtype,
            "quantization": spec.model.quantization,
            "precision": spec.training.precision,
        },
        chat_template=read_chat_template(spec.data, spec.base),
    )
