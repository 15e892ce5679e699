"""What a job found: one JSON summary, three data frames; numbers as text.

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
    TrialState,
    TrialStatus,
    count_statuses,
)
from autopeft.results.calibration import (
    Calibration,
    calibration_of,
    expected_bytes,
    measured_bytes,
    measured_memory,
    memory_ratio,
    memory_source,
)
from autopeft.results.correlation import answer_metric, score_and_answers
from autopeft.results.front import pareto_front
from autopeft.results.hypervolume import front_hypervolume
from autopeft.results.job_log import JobLog, finite_or_none
from autopeft.results.limits import limits_of

if TYPE_CHECKING:
    import pandas as pd

    from autopeft.results.query import Answer

SCHEMA_VERSION = 1

MEMORY_COLUMNS = (
    "memory_bytes", "memory_ratio", "expected_memory_bytes", "expected_memory_source",
    "memory_kind", "base_memory_bytes", "reserved_memory_bytes",
)  # fmt: skip
TRIAL_COLUMNS = (
    "trial", "status", "reason", "origin", "configuration", "methods", "learning_rate", "seed",
    "step", "score", "best_score", "metric_value", *COST_NAMES, *MEMORY_COLUMNS, "seconds",
    "num_failures", "on_front", "broken_constraints",
)  # fmt: skip
FRONT_COLUMNS = (
    "trial", "configuration", "origin", "seed", "score", "best_score", "metric", "metric_value",
    "answer_metric", "answer_metric_value", *COST_NAMES, "memory_bytes", "memory_ratio",
    "expected_memory_bytes", "expected_memory_source", "steps", "seconds",
)  # fmt: skip
CURVE_COLUMNS = ("trial", "step", "score", "seconds", "memory_bytes")


def summary(log: JobLog, answer: Answer | None = None) -> dict[str, Any]:
    """Return what ``show --format json`` prints: plain JSON, NaN as None.

    ``trials`` counts every finished trial under exactly one of ``completed``, ``stopped``,
    ``infeasible``, ``diverged`` and ``failed``; ``num_unfinished`` counts the others. ``front``
    is ordered by score, best first; see :func:`front_point`. ``broken_constraints`` says by
    number of trial what keeps completed trials off the front. ``hypervolume`` is None before a
    job is prepared.
    ``memory_calibration`` is what measured memory says of predictions, ``memory_error`` how far
    quick predictions lay from exact accounting at the start of the job (None where unknown),
    ``limits`` what each limit on known costs did.
    ``score_and_answers`` is None unless the job scores generated answers: it says how alike
    score and answers rank the trials.

    With the answer to a query ``front`` is the front of the trials that keep its limits, and
    ``where`` says which these are; all else tells of the whole job.
    """
    states = log.trials
    counts = count_statuses(states)
    scale = log.scale
    correlation = score_and_answers(log)
    prepared = log.prepared or {}
    broken = kept_off_front(log)
    return {
        "schema_version": SCHEMA_VERSION,
        "job": log.name,
        "is_finished": log.end_reason is not None,
        "end_reason": log.end_reason,
        "trials": counts,
        "num_unfinished": len(states) - sum(counts.values()),
        "num_breaking_constraints": len(broken),
        "broken_constraints": {str(number): texts for number, texts in broken.items()},
        **({} if answer is None else {"where": answer.to_json()}),
        "front": [front_point(log, state) for state in front_of(log, answer)],
        "hypervolume": None if scale is None else front_hypervolume(states, scale),
        "objectives": None if scale is None else [scale.metric, *scale.cost_names],
        "task": prepared.get("task"),
        "metric": None if scale is None else scale.metric,
        "greater_is_better": prepared.get("greater_is_better"),
        "scale": None if scale is None else scale.to_json(),
        "answer_metric": answer_metric(log),
        "score_and_answers": None if correlation is None else correlation.to_json(),
        "memory_calibration": calibration_of(states).to_json(),
        "memory_error": prepared.get("memory_error"),
        "limits": limits_of(log),
        "total_steps": log.total_steps,
        "seconds": log.spent_seconds,
        "num_runs": log.num_runs,
        "versions": dict(log.versions),
    }


def front_of(log: JobLog, answer: Answer | None = None) -> list[TrialState]:
    """Return the front of a job, or of what a query allows, best score first.

    It is empty before the job is prepared.
    """
    if answer is not None:
        return list(answer.front)
    return [] if log.scale is None else pareto_front(log.trials, log.scale)


def broken_constraints(log: JobLog, state: TrialState) -> list[str]:
    """Return which of the job's constraints a trial breaks, for people."""
    return [] if log.scale is None else log.scale.broken_constraints(state)


def kept_off_front(log: JobLog) -> dict[int, list[str]]:
    """Return the constraints that completed trials break, for people, by number of trial."""
    found = {
        state.trial.number: broken_constraints(log, state)
        for state in log.trials
        if state.status is TrialStatus.COMPLETED
    }
    return {number: broken for number, broken in found.items() if broken}


def front_point(log: JobLog, state: TrialState) -> dict[str, Any]:
    """Return one measured trial as plain JSON.

    ``score`` is oriented upward, ``metric_value`` is the same measurement as the metric itself
    gives it, ``answer_metric_value`` that of generated answers (None where the job has none), and
    ``metrics`` is everything measured at the latest step.
    """
    assert log.scale is not None
    trial = state.trial
    answers = answer_metric(log)
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
        "answer_metric": answers,
        "answer_metric_value": (
            None if answers is None else finite_or_none(metric_value(state, answers))
        ),
        "metrics": _latest_metrics(state),
        **state.costs.to_json(),
        **memory_facts(state, calibration_of(log.trials)),
        "steps": state.step,
        "seconds": trained_seconds(state),
        "checkpoint": state.checkpoint,
    }


def memory_facts(state: TrialState, calibration: Calibration) -> dict[str, Any]:
    """Return a trial's measured memory beside its prediction, ``train_memory_bytes``.

    Nothing but ``expected_memory_bytes`` is known before a trial is measured: then it is the
    prediction times the job's calibration factor, and afterwards the measurement.
    """
    memory = measured_memory(state)
    return {
        "memory_bytes": measured_bytes(state),
        "memory_ratio": memory_ratio(state),
        "expected_memory_bytes": expected_bytes(state, calibration),
        "expected_memory_source": memory_source(state, calibration),
        "memory_kind": None if memory is None else memory.kind,
        "base_memory_bytes": None if memory is None else memory.base_bytes,
        "reserved_memory_bytes": None if memory is None else memory.reserved_bytes,
    }


def calibration_text(log: JobLog) -> str | None:
    """Say how measured memory relates to predictions; None where nothing was measured."""
    found = calibration_of(log.trials)
    if found.median_ratio is None:
        return None
    how = "as CUDA's allocator tells" if found.kind == "cuda" else "live tensors on the CPU"
    return (
        f"Memory: measured / predicted is {found.median_ratio:.3f} (median of "
        f"{counted(found.num_trials, 'trial')}, {how}); trials not yet run are expected to need "
        f"{found.factor:.3f} of their prediction."
    )


def memory_error_text(log: JobLog) -> str | None:
    """Say how far quick predictions of memory lie from exact ones; None where nobody looked."""
    found = (log.prepared or {}).get("memory_error")
    if found is None:
        return None
    return (
        f"Memory of candidates is predicted within {100 * found['median']:.2f} % (median) and "
        f"{100 * found['worst']:.2f} % (worst of "
        f"{counted(found['num_compared'], 'configuration')}) of exact accounting, which every "
        "trial gets."
    )


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


def trials_frame(log: JobLog, answer: Answer | None = None) -> pd.DataFrame:
    """Return one row per trial, in the order of proposal; of those a query allows, if one is given.

    Columns: ``TRIAL_COLUMNS``, then for each method that occurs ``<method>.layers`` and
    ``<method>.<setting>`` (missing where a trial does not have it), then each metric at the
    latest step as ``metric.<name>``. ``configuration`` is one line for people;
    ``metric_value`` and ``score`` are NaN before the first measurement. What breaks a
    constraint of the job says which in ``broken_constraints``, and ``reason`` says so of a
    completed trial, which is not on the front for that.
    """
    front = {state.trial.number for state in front_of(log, answer)}
    metric = "" if log.scale is None else log.scale.metric
    calibration = calibration_of(log.trials)
    rows = []
    for state in log.trials if answer is None else answer.allowed:
        trial = state.trial
        row: dict[str, Any] = {
            "trial": trial.number,
            "status": state.status.value,
            "reason": state.reason or _kept_off(log, state),
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
            **memory_facts(state, calibration),
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


def front_frame(log: JobLog, answer: Answer | None = None) -> pd.DataFrame:
    """Return one row per member of the front, or of the front under a query, best score first.

    Columns: ``FRONT_COLUMNS``, then each metric at the latest step as ``metric.<name>``.
    ``configuration`` is one line for people; the full one is in :func:`summary`.
    """
    rows = []
    for state in front_of(log, answer):
        point = front_point(log, state)
        metrics = {f"metric.{name}": value for name, value in point["metrics"].items()}
        rows.append({**point, "configuration": point["description"], **metrics})
    metric_names = sorted({name for row in rows for name in row if name.startswith("metric.")})
    return _frame(rows, FRONT_COLUMNS, metric_names)


def curves_frame(log: JobLog) -> pd.DataFrame:
    """Return one row per measurement, by trial and step.

    Columns: ``CURVE_COLUMNS``, then every metric by its name, in its own orientation.
    ``memory_bytes`` is the measured peak, NaN where the device cannot tell.
    """
    measured = [m for state in log.trials for m in state.curve]
    metrics = sorted({name for m in measured for name in m.metrics} - set(CURVE_COLUMNS))
    rows = [_curve_row(m, metrics) for m in measured]
    return _frame(rows, CURVE_COLUMNS, metrics)


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


def _kept_off(log: JobLog, state: TrialState) -> str:
    """Say why a completed trial is not on the front whatever its score; "" where it may be."""
    broken = broken_constraints(log, state) if state.status is TrialStatus.COMPLETED else []
    return f"not on the front: {'; '.join(broken)}" if broken else ""


def _latest_metrics(state: TrialState) -> dict[str, float | None]:
    """Return all metrics of the latest measurement by name; NaN as None."""
    metrics = state.curve[-1].metrics if state.curve else {}
    return {name: finite_or_none(value) for name, value in sorted(metrics.items())}


def _curve_row(measurement: Measurement, metrics: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(measurement, name) for name in CURVE_COLUMNS}
    return row | {name: measurement.metrics.get(name, math.nan) for name in metrics}


def _frame(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], more: Sequence[str] = ()
) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(rows), columns=[*columns, *more])
