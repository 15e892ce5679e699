"""What a job found: one JSON summary, three data frames, one table for the terminal.

Everything is derived from a :class:`~autopeft.results.job_log.JobLog`, so it can be asked of a
running job as of a finished one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autopeft.naming import counted
from autopeft.records import (
    ADAPTER_FILE_BYTES,
    BASELINE_ORIGINS,
    COST_NAMES,
    INFERENCE_EXTRA_FLOPS,
    NUM_TRAINABLE_PARAMETERS,
    RETENTION,
    TRAIN_MEMORY_BYTES,
    TRAIN_SECONDS,
    Measurement,
    ModelShape,
    TrialState,
    TrialStatus,
    count_statuses,
)
from autopeft.results.correlation import answer_metric, score_and_answers
from autopeft.results.front import pareto_front
from autopeft.results.hypervolume import front_hypervolume
from autopeft.results.job_log import JobLog, finite_or_none
from autopeft.search_spaces.targets import all_linear

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

SCHEMA_VERSION = 1

#: Origins of trials that stand for the baseline everybody knows.

TRIAL_COLUMNS = (
    "trial", "status", "reason", "origin", "configuration", "methods", "learning_rate", "seed",
    "step", "score", "best_score", "metric_value", *COST_NAMES, "memory_bytes", "seconds",
    "num_failures", "on_front", "broken_constraints",
)  # fmt: skip
FRONT_COLUMNS = (
    "trial", "configuration", "origin", "seed", "score", "best_score", "metric", "metric_value",
    *COST_NAMES, "steps", "seconds",
)  # fmt: skip
CURVE_COLUMNS = ("trial", "step", "score", "seconds", "memory_bytes")


def summary(log: JobLog) -> dict[str, Any]:
    """Return what ``show --format json`` prints: plain JSON, NaN as None.

    ``trials`` counts every finished trial under exactly one of ``completed``, ``stopped``,
    ``infeasible``, ``diverged`` and ``failed``; ``num_unfinished`` counts the others. ``front``
    is ordered by score, best first; ``score`` is oriented upward, ``metric_value`` is the same
    measurement as the metric itself gives it. ``hypervolume`` is None before a job is prepared.
    ``score_and_answers`` is None unless the job scores generated answers: it says how alike
    score and answers rank the trials.
    """
    states = log.trials
    counts = count_statuses(states)
    scale = log.scale
    correlation = score_and_answers(log)
    prepared = log.prepared or {}
    return {
        "schema_version": SCHEMA_VERSION,
        "job": log.name,
        "is_finished": log.end_reason is not None,
        "end_reason": log.end_reason,
        "trials": counts,
        "num_unfinished": len(states) - sum(counts.values()),
        "num_breaking_constraints": sum(
            bool(broken_constraints(log, state))
            for state in states
            if state.status is TrialStatus.COMPLETED
        ),
        "front": [front_point(log, state) for state in front_of(log)],
        "hypervolume": None if scale is None else front_hypervolume(states, scale),
        "objectives": None if scale is None else [scale.metric, *scale.cost_names],
        "task": prepared.get("task"),
        "metric": None if scale is None else scale.metric,
        "greater_is_better": prepared.get("greater_is_better"),
        "scale": None if scale is None else scale.to_json(),
        "answer_metric": answer_metric(log),
        "score_and_answers": None if correlation is None else correlation.to_json(),
        "total_steps": log.total_steps,
        "seconds": log.spent_seconds,
        "num_runs": log.num_runs,
        "versions": dict(log.versions),
    }


def front_of(log: JobLog) -> list[TrialState]:
    """Return the front of a job, best score first; empty before it is prepared."""
    return [] if log.scale is None else pareto_front(log.trials, log.scale)


def broken_constraints(log: JobLog, state: TrialState) -> list[str]:
    """Return which of the job's constraints a trial breaks, for people."""
    return [] if log.scale is None else log.scale.broken_constraints(state)


def front_point(log: JobLog, state: TrialState) -> dict[str, Any]:
    """Return one measured trial as plain JSON."""
    assert log.scale is not None
    trial = state.trial
    return {
        "trial": trial.number,
        "configuration": trial.configuration.to_json(),
        "description": str(trial.configuration),
        "origin": trial.origin,
        "seed": trial.seed,
        "score": finite_or_none(state.score),
        "best_score": finite_or_none(best_score(state)),
        "metric": log.scale.metric,
        "metric_value": finite_or_none(metric_value(state, log.scale.metric)),
        **state.costs.to_json(),
        "memory_bytes": _peak_memory(state),
        "steps": state.step,
        "seconds": trained_seconds(state),
        "checkpoint": state.checkpoint,
    }


def best_score(state: TrialState) -> float:
    """Return the best score over the trial's curve, NaN where nothing finite was measured."""
    scores = [m.score for m in state.curve if math.isfinite(m.score)]
    return max(scores, default=math.nan)


def metric_value(state: TrialState, metric: str) -> float:
    """Return a metric at the latest measurement, in its own orientation; NaN where absent."""
    return float(state.curve[-1].metrics.get(metric, math.nan)) if state.curve else math.nan


def trained_seconds(state: TrialState) -> float:
    """Return the seconds a trial's segments took; a time that is not known counts nothing."""
    return math.fsum(m.seconds for m in state.curve if math.isfinite(m.seconds))


def is_baseline(state: TrialState) -> bool:
    """Return whether the trial stands for LoRA on all linear layers, learning rate swept."""
    return state.trial.origin in BASELINE_ORIGINS


def trials_frame(log: JobLog) -> pd.DataFrame:
    """Return one row per trial, in the order of proposal.

    Columns: ``TRIAL_COLUMNS``, then for each method that occurs ``<method>.layers`` and
    ``<method>.<setting>`` (missing where a trial does not have it), then each metric at the
    latest step as ``metric.<name>``. ``configuration`` is one line for people;
    ``metric_value`` and ``score`` are NaN before the first measurement. What breaks a
    constraint of the job says which in ``broken_constraints``.
    """
    front = {state.trial.number for state in front_of(log)}
    metric = "" if log.scale is None else log.scale.metric
    rows = []
    for state in log.trials:
        trial = state.trial
        row: dict[str, Any] = {
            "trial": trial.number,
            "status": state.status.value,
            "reason": state.reason,
            "origin": trial.origin,
            "configuration": str(trial.configuration),
            "methods": "+".join(trial.configuration.methods),
            "learning_rate": trial.configuration.learning_rate,
            "seed": trial.seed,
            "step": state.step,
            "score": state.score,
            "best_score": best_score(state),
            "metric_value": metric_value(state, metric),
            **state.costs.to_json(),
            "memory_bytes": _peak_memory(state),
            "seconds": trained_seconds(state),
            "num_failures": state.num_failures,
            "on_front": trial.number in front,
            "broken_constraints": "; ".join(broken_constraints(log, state)),
        }
        for module in trial.configuration.modules:
            row[f"{module.method}.layers"] = ",".join(map(str, module.layers))
            for name, value in module.settings:
                text = ",".join(value) if isinstance(value, tuple) else value
                row[f"{module.method}.{name}"] = text
        if state.curve:
            row |= {f"metric.{name}": v for name, v in sorted(state.curve[-1].metrics.items())}
        rows.append(row)
    settings: list[str] = []
    metrics: list[str] = []
    for name in dict.fromkeys(name for row in rows for name in row if "." in name):
        (metrics if name.startswith("metric.") else settings).append(name)
    return _frame(rows, TRIAL_COLUMNS, [*sorted(settings), *sorted(metrics)])


def front_frame(log: JobLog) -> pd.DataFrame:
    """Return one row per front member, best score first; columns ``FRONT_COLUMNS``.

    ``configuration`` is one line for people; the full one is in :func:`summary`.
    """
    rows = []
    for state in front_of(log):
        point = front_point(log, state)
        rows.append({**point, "configuration": point["description"]})
    return _frame(rows, FRONT_COLUMNS)


def curves_frame(log: JobLog) -> pd.DataFrame:
    """Return one row per measurement, by trial and step.

    Columns: ``CURVE_COLUMNS``, then every metric by its name, in its own orientation.
    ``memory_bytes`` is the measured peak, NaN where the device cannot tell.
    """
    measured = [m for state in log.trials for m in state.curve]
    metrics = sorted({name for m in measured for name in m.metrics} - set(CURVE_COLUMNS))
    rows = [_curve_row(m, metrics) for m in measured]
    return _frame(rows, CURVE_COLUMNS, metrics)


def front_table(log: JobLog) -> Table:
    """Return the front for a terminal; members of the ``lora-sweep`` portfolio carry a ``*``."""
    from rich.table import Table

    metric = "score" if log.scale is None else log.scale.metric
    front = front_of(log)
    marked = any(is_baseline(state) for state in front)
    table = Table(
        title=f"Front of {log.name or 'the job'}: {counted(len(front), 'trial')}",
        caption="* LoRA on all linear layers, learning rate swept (the baseline)"
        if marked
        else None,
        title_justify="left",
        caption_justify="left",
    )
    more = _further_costs(log)
    has_head = any(
        state.costs.num_trainable_parameters != state.costs.num_adapter_parameters
        for state in front
    )
    apart = ["adapter"] if has_head else []
    answers = answer_metric(log)
    scores = [metric] if answers is None else [metric, answers]
    for name in ("trial", *scores, "parameters", *apart, "memory", *more.values()):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("configuration", overflow="fold")
    for state in front:
        costs = state.costs
        value = state.score if log.scale is None else metric_value(state, log.scale.metric)
        table.add_row(
            f"{state.trial.number}{'*' if is_baseline(state) else ''}",
            f"{value:.4f}",
            *([] if answers is None else [f"{metric_value(state, answers):.4f}"]),
            count_text(costs.num_trainable_parameters),
            *([count_text(costs.num_adapter_parameters)] if has_head else []),
            bytes_text(costs.train_memory_bytes),
            *(cost_text(name, getattr(costs, name)) for name in more),
            _described(log, state),
        )
    return table


def _described(log: JobLog, state: TrialState) -> str:
    """Describe a configuration; all linear layers of the model are called ``all``."""
    text = str(state.trial.configuration)
    if log.prepared is None or "shape" not in log.prepared:
        return text
    everywhere = all_linear(ModelShape.from_json(log.prepared["shape"]))
    return text.replace(f"sites={','.join(everywhere)}", "sites=all")


def _further_costs(log: JobLog) -> dict[str, str]:
    """Return the costs a job asks for beyond those every table shows, and their headings."""
    headings = {
        ADAPTER_FILE_BYTES: "file",
        INFERENCE_EXTRA_FLOPS: "extra FLOPs",
        TRAIN_SECONDS: "time",
        RETENTION: "retention",
    }
    if log.scale is None:
        return {}
    asked = {*log.scale.cost_names, *(constraint.name for constraint in log.scale.constraints)}
    return {name: heading for name, heading in headings.items() if name in asked}


def count_text(number: float) -> str:
    """Write a count with three digits, e.g. ``74.5 k``."""
    return _scaled(number, 1000.0, ("", " k", " M", " G", " T"))


def bytes_text(number: float) -> str:
    """Write a number of bytes with three digits, in powers of 1024, e.g. ``412 MiB``."""
    return _scaled(number, 1024.0, (" B", " KiB", " MiB", " GiB", " TiB"))


def cost_text(name: str, value: float | None) -> str:
    """Write a cost in its unit; a dash where it was not measured."""
    if value is None:
        return "-"
    if name in (TRAIN_MEMORY_BYTES, ADAPTER_FILE_BYTES):
        return bytes_text(value)
    if name == TRAIN_SECONDS:
        return f"{value:.0f} s" if value >= 10 else f"{value:.2g} s"
    return f"{value:+.4f}" if name == RETENTION else count_text(value)


def cost_title(name: str) -> str:
    """Return a cost's name for people."""
    titles = {
        NUM_TRAINABLE_PARAMETERS: "trainable parameters",
        TRAIN_MEMORY_BYTES: "training memory",
        ADAPTER_FILE_BYTES: "adapter file",
        INFERENCE_EXTRA_FLOPS: "extra FLOPs a token",
        TRAIN_SECONDS: "training time",
        RETENTION: "retention (rise of the base model's loss, nats a token)",
    }
    return titles.get(name, name.removeprefix("num_").replace("_", " "))


def _scaled(number: float, base: float, units: Sequence[str]) -> str:
    value, unit = float(number), 0
    # 999.5 would be written as 1000: take the next unit.
    while abs(value) >= (999.5 if base == 1000.0 else 1023.5) and unit < len(units) - 1:
        value, unit = value / base, unit + 1
    digits = 0 if unit == 0 or abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f}{units[unit]}"


def _peak_memory(state: TrialState) -> int | None:
    return max((m.memory_bytes for m in state.curve if m.memory_bytes is not None), default=None)


def _curve_row(measurement: Measurement, metrics: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(measurement, name) for name in CURVE_COLUMNS}
    return row | {name: measurement.metrics.get(name, math.nan) for name in metrics}


def _frame(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], more: Sequence[str] = ()
) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(rows), columns=[*columns, *more])
