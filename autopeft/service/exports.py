"""Export a trial, and prove that the files reproduce what was measured."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autopeft.errors import AutopeftError, ExportError, JobFolderError, ModelError
from autopeft.records import TrialState
from autopeft.results.exporters.base import EXPORTERS, ExportRequest
from autopeft.results.job_log import JobLog
from autopeft.results.query import ask, pick_where
from autopeft.results.report import metric_value
from autopeft.service.job_spec import JobSpec
from autopeft.service.jobs import JobFolder, open_job


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What was exported, and how it compares with what the search measured.

    Attributes:
        trial: Number of the trial.
        target: Folder with the files.
        metric: Name of the metric.
        metric_value: Its value on the search-validation split, as recorded.
        num_rows: Validation rows predicted again from the exported files alone.
        num_prediction_mismatches: How many of them came out differently; always 0 in a report.
        unverified: Why nothing was compared; None where it was.
    """

    trial: int
    target: Path
    metric: str
    metric_value: float
    num_rows: int
    num_prediction_mismatches: int
    unverified: str | None = None


def export_trial(
    folder: Path, *, pick: str, tool: str, target: Path, where: str | Sequence[str] = ()
) -> ExportReport:
    """Write a trial for a training tool, load it back and compare every prediction.

    Args:
        folder: The job's folder.
        pick: ``knee``, ``best``, ``smallest`` or a trial's number.
        tool: Name of an exporter, e.g. ``peft``.
        target: A folder that does not exist yet, or is empty.
        where: Limits that the trial must keep, such as ``train_memory_bytes<=24GiB``.

    Raises:
        JobFolderError: no job is there.
        AutopeftError: a limit cannot be read, or nothing keeps all of them.
        ExportError: the trial has no checkpoint, the tool cannot express it, or the written
            files do not reproduce what was measured (they are removed then).
    """
    exporter = EXPORTERS.get(tool)()
    log = open_job(folder)
    if log.spec is None or log.prepared is None or log.scale is None:
        raise JobFolderError(
            f"the job in {str(folder)!r} has no completed trial yet",
            hint=f"go on with `autopeft resume {folder}`",
        )
    state = pick_where(log, pick, where)
    paths = JobFolder(folder)
    checkpoint = paths.checkpoints / str(state.checkpoint)
    if not checkpoint.is_dir():
        raise ExportError(
            f"the checkpoint of trial {state.trial.number} is gone: only members of the job's "
            "whole front keep theirs",
            hint=_other_pick(log, paths, where),
        )
    request = ExportRequest(
        state=state, checkpoint=checkpoint, assets=paths.assets, job=dict(log.spec)
    )
    exporter.write(request, target)
    metric = str(log.prepared["metric"])
    report = ExportReport(
        trial=state.trial.number,
        target=target,
        metric=metric,
        metric_value=metric_value(state, metric),
        num_rows=0,
        num_prediction_mismatches=0,
    )
    try:
        return _verified(report, log, state, checkpoint, target)
    except ExportError:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _other_pick(log: JobLog, paths: JobFolder, where: str | Sequence[str]) -> str:
    """Say which trial can be exported instead."""
    if not where:
        return "pick knee, best, smallest or a trial that `autopeft show` lists"
    there = [
        state
        for state in ask(log, where).allowed
        if (paths.checkpoints / str(state.checkpoint)).is_dir()
    ]
    if not there:
        return "make it anew: search with these limits as constraints of the job file"
    best = max(there, key=lambda state: state.score)
    return (
        f"the best of those that keep what is asked for and have theirs: --pick {best.trial.number}"
    )


def _verified(
    report: ExportReport, log: JobLog, state: TrialState, checkpoint: Path, target: Path
) -> ExportReport:
    """Predict the validation split again from the exported files, where its data still is."""
    from dataclasses import replace

    import torch

    from autopeft.workers.checkpoints import VALIDATION_FILE
    from autopeft.workers.loading import load_splits
    from autopeft.workers.models import resolve_model
    from autopeft.workers.verify import verify_export

    assert log.spec is not None
    assert log.prepared is not None
    spec = JobSpec.from_json(log.spec)
    try:
        splits = load_splits(
            spec.data, base=spec.base, seed=spec.seed, task=str(log.prepared["task"])
        )
        source = resolve_model(spec.model, base=spec.base)
    except AutopeftError as error:
        return replace(report, unverified=error.message)
    if splits.fingerprint != log.prepared["fingerprint"]:
        return replace(report, unverified="the data changed since the search")
    local = Path(source.location)
    try:
        compared = verify_export(
            target,
            splits.splits["validation"],
            checkpoint / VALIDATION_FILE,
            base_folder=local if local.is_dir() else None,
            batch_size=spec.training.evaluation_batch_size,
            precision=spec.training.updated(state.trial.configuration.training).precision,
            device="cuda" if spec.workers.gpus and torch.cuda.is_available() else "cpu",
        )
    except ModelError as error:
        return replace(report, unverified=error.message)
    if not compared.is_exact:
        raise ExportError(
            f"the exported files of trial {state.trial.number} predict "
            f"{compared.num_prediction_mismatches} of {compared.num_rows} validation rows "
            "differently from what the search measured",
            hint="this must not happen; please report it with `autopeft doctor`",
        )
    return replace(report, num_rows=compared.num_rows)
