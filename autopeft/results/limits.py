"""Which limits of a job mattered: what each left out, and how close the front came to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from autopeft.naming import counted
from autopeft.records import TRAIN_MEMORY_BYTES, TrialState, TrialStatus
from autopeft.results.calibration import measured_bytes
from autopeft.results.front import number_text, pareto_front
from autopeft.results.job_log import JobLog
from autopeft.results.memory_limit import WORKER_MEMORY, needed_bytes


def limits_of(log: JobLog) -> list[dict[str, Any]]:
    """Return what is known of each limit, as plain JSON.

    Besides what was found when the job began (``left_out``, ``left_out_alone``) that is
    ``used``, the largest part of a maximum that a trial on the front comes to (None without
    one), ``num_turned_down``, how often something else would have been proposed but for it,
    ``num_out_of_memory``, the trials that ran out of memory, where it is the workers', and
    ``is_binding``, whether it changed what was tried or what came of it.
    """
    front = [] if log.scale is None else pareto_front(log.trials, log.scale)
    return [_told(limit, front, log.trials) for limit in log.limits or ()]


def _told(
    limit: Mapping[str, Any], front: Iterable[TrialState], trials: Iterable[TrialState]
) -> dict[str, Any]:
    name, maximum = limit["name"], limit["maximum"]
    values = [value for state in front if (value := _value(name, state)) is not None]
    used = max(values) / maximum if values and maximum else None
    trials = list(trials)
    turned_down = sum(name in state.trial.turned_down for state in trials)
    failed = sum(
        name == WORKER_MEMORY and state.status is TrialStatus.INFEASIBLE and state.num_failures > 0
        for state in trials
    )
    return {
        **limit,
        "used": used,
        "num_turned_down": turned_down,
        "num_out_of_memory": failed,
        "is_binding": turned_down + failed > 0,
    }


def limit_lines(log: JobLog) -> list[str]:
    """Say for people what each limit did, a line each."""
    lines = []
    for limit in limits_of(log):
        text = f"{limit_text(limit)}: {left_out_text(limit)}"
        if limit["num_turned_down"]:
            text += f"; it changed {counted(limit['num_turned_down'], 'proposal')}"
        if limit["used"] is not None:
            text += f"; the front uses up to {limit['used']:.0%} of it"
        if limit["num_out_of_memory"]:
            text += f"; {counted(limit['num_out_of_memory'], 'trial')} ran out of it"
        lines.append(f"{text}; {'it bound' if limit['is_binding'] else 'it did not bind'}.")
    return lines


def limit_text(limit: Mapping[str, Any]) -> str:
    """Write a limit as ``workers.memory <= 300 MiB``."""
    is_memory = limit["name"] in (WORKER_MEMORY, TRAIN_MEMORY_BYTES)
    texts = []
    for sign, value in ((">=", limit["minimum"]), ("<=", limit["maximum"])):
        if value is not None:
            shown = f"{value / 2**20:,.4g} MiB" if is_memory else number_text(value)
            texts.append(f"{limit['name']} {sign} {shown}")
    return " and ".join(texts)


def left_out_text(limit: Mapping[str, Any]) -> str:
    """Say how much of the space a limit leaves out."""
    if not limit["left_out"]:
        return "leaves nothing of the space out"
    alone = limit["left_out_alone"]
    others = f", {alone:.0%} that no other limit does" if alone < limit["left_out"] else ""
    return f"leaves {limit['left_out']:.0%} of the space out{others}"


def _value(name: str, state: TrialState) -> float | None:
    if name == WORKER_MEMORY:
        return needed_bytes(state) or state.costs.train_memory_bytes
    if name == TRAIN_MEMORY_BYTES:
        return measured_bytes(state) or state.costs.train_memory_bytes
    value: float | None = getattr(state.costs, name)
    return value
