"""What measured trials say of predicted memory: a factor for the trials not yet run.

Allocators round up, kernels need workspaces, and no prediction knows them all; on one machine, one
model and one job they come to about the same part of the peak for every configuration. With
``r_1 ... r_n`` the ratios measured / predicted of the trials measured so far, the factor is::

    factor = exp(n / (n + PRIOR_TRIALS) * median(log r_1, ..., log r_n))

The median stays what it is where single trials are far off, and the factor stays near 1 while few
trials are measured. It is a function of the log's states alone: the same after a resume. What
trials cost, as objectives compare it, is and remains the prediction itself, so that no front moves
when a factor does; the calibrated value is for people and for limits in bytes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from autopeft.records import MeasuredMemory, TrialState

#: As many measured trials weigh as much as the belief that predictions are right.
PRIOR_TRIALS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How measured memory relates to predicted memory in one job.

    Attributes:
        factor: What predictions are multiplied by; positive.
        num_trials: Measured trials it is learned from.
        median_ratio: Their median of measured / predicted; None without any.
        kind: How they were measured: ``cuda`` or ``accounted``; None without any.
    """

    factor: float = 1.0
    num_trials: int = 0
    median_ratio: float | None = None
    kind: str | None = None

    def __call__(self, predicted_bytes: float) -> int:
        """Return what a trial will probably need that is predicted to need so much, in bytes."""
        return round(self.factor * predicted_bytes)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return {name: getattr(self, name) for name in self.__slots__}


def calibration_of(states: Iterable[TrialState]) -> Calibration:
    """Learn from the trials of a job.

    Figures of a GPU's allocator and accounted ones do not mix: where there are both, as in a job
    that was resumed on another machine, the GPU's count.
    """
    by_kind: dict[str, list[float]] = {}
    for state in states:
        ratio = memory_ratio(state)
        if ratio is not None:
            by_kind.setdefault(_kind_of(state), []).append(math.log(ratio))
    if not by_kind:
        return Calibration()
    kind = "cuda" if "cuda" in by_kind else "accounted"
    logs = by_kind[kind]
    median = statistics.median(logs)
    return Calibration(
        factor=math.exp(len(logs) / (len(logs) + PRIOR_TRIALS) * median),
        num_trials=len(logs),
        median_ratio=math.exp(median),
        kind=kind,
    )


def calibrated(states: Iterable[TrialState], predicted_bytes: Iterable[float]) -> list[int]:
    """Return what configurations not yet run will probably need, in bytes.

    Args:
        states: The job's trials.
        predicted_bytes: ``n`` predictions.

    Returns:
        ``n`` calibrated predictions.
    """
    calibration = calibration_of(states)
    return [calibration(each) for each in predicted_bytes]


def expected_bytes(state: TrialState, calibration: Calibration) -> int:
    """Return a trial's memory as far as it is known, in bytes: measured, else calibrated."""
    measured = measured_bytes(state)
    return calibration(state.costs.train_memory_bytes) if measured is None else measured


def memory_source(state: TrialState, calibration: Calibration) -> str:
    """Say whether :func:`expected_bytes` is ``measured``, ``calibrated`` or just ``predicted``."""
    if measured_bytes(state) is not None:
        return "measured"
    return "calibrated" if calibration.num_trials else "predicted"


def measured_bytes(state: TrialState) -> int | None:
    """Return the most that any segment of a trial was measured to need, in bytes."""
    return max((m.memory_bytes for m in state.curve if m.memory_bytes is not None), default=None)


def measured_memory(state: TrialState) -> MeasuredMemory | None:
    """Return the measurement with the highest peak; None where none was kept."""
    kept = [m.memory for m in state.curve if m.memory is not None]
    return max(kept, key=lambda memory: memory.peak_bytes, default=None)


def memory_ratio(state: TrialState) -> float | None:
    """Return measured / predicted; None where either is not known."""
    measured, predicted = measured_bytes(state), state.costs.train_memory_bytes
    return measured / predicted if measured and predicted > 0 else None


def _kind_of(state: TrialState) -> str:
    memory = measured_memory(state)
    # Before measurements said how they were made, only GPUs were asked.
    return "cuda" if memory is None else memory.kind
