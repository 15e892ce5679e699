"""What a job asks of trials that reach their last step: scored answers, and retention."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopeft.naming import counted
from autopeft.records import RETENTION
from autopeft.service.job_spec import JobSpec
from autopeft.workers.answer_metrics import AnswerMetric, MetricWarning, has_changed, read_metric
from autopeft.workers.settings import RetentionSettings

if TYPE_CHECKING:
    from autopeft.workers.dataset import EncodedSplit, Rows
    from autopeft.workers.generation import GenerationPlan
    from autopeft.workers.tasks.base import EncodingSettings, Task
    from autopeft.workers.worker import WorkerPlan


def plan_answers(
    spec: JobSpec,
    task: Task,
    rows: Rows,
    tokenizer: Any,
    encoding: EncodingSettings,
    *,
    max_positions: int | None,
    kept_metric: Path | None,
) -> GenerationPlan | None:
    """Return the answers to generate, None where the job names no metric.

    Args:
        spec: The job.
        task: Its task.
        rows: The scored split.
        tokenizer: The model's.
        encoding: How examples are made.
        max_positions: What prompt and answer must fit into.
        kept_metric: The job's copy of the user's file; it counts where it is there.

    Raises:
        AutopeftError: the metric cannot be read, or task and rows have no answers.
    """
    if spec.metric is None:
        return None
    from autopeft.workers.generation import plan_generation

    metric = read_metric(spec.metric, spec.base, kept_metric)
    if kept_metric is not None and has_changed(spec.metric, spec.base, kept_metric):
        warnings.warn(
            f"{metric.file} has changed since the job began; its trials go on being scored by the "
            f"copy in {kept_metric}",
            MetricWarning,
            stacklevel=2,
        )
    return plan_generation(
        metric,
        spec.generation,
        task,
        rows,
        tokenizer,
        encoding,
        seed=spec.seed,
        max_positions=max_positions,
    )


def last_step_text(plan: WorkerPlan) -> str:
    """Say what a trial goes through after its last step, "" where that is nothing.

    For example ``generates 100 answers, measures retention``: it can take longer than training.
    """
    answers, probe = plan.generation, plan.probe
    parts = []
    if answers is not None:
        parts.append(f"generates {counted(len(answers.prompts), 'answer')}")
    if probe is not None:
        parts.append("measures retention")
    return ", ".join(parts)


def keep_metric(metric: AnswerMetric | None, path: Path) -> None:
    """Write the job's copy of a user's metric once."""
    if metric is not None and metric.source is not None and not path.exists():
        path.write_text(metric.source, encoding="utf-8")


def wants_retention(spec: JobSpec) -> bool:
    """Return whether a job measures retention: by that key, an objective or a constraint."""
    named = {*(spec.objectives or ()), *spec.constraints}
    return spec.retention is not None or RETENTION in named


def read_probe_of(spec: JobSpec, task: str, tokenizer: Any) -> EncodedSplit | None:
    """Return the probe set of a job, None where it does not measure retention.

    Raises:
        AutopeftError: the task has no retention, or the user's file cannot be read.
    """
    if not wants_retention(spec):
        return None
    from autopeft.workers.retention import read_probe

    settings = spec.retention or RetentionSettings()
    return read_probe(settings, base=spec.base, task=task, tokenizer=tokenizer, seed=spec.seed)
