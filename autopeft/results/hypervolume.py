"""The hypervolume of a set of trials, exact and normalised to [0, 1].

The volume that a set of points dominates, between the reference point (0) and the ideal point
(1) of an :class:`~autopeft.results.front.ObjectiveScale`; costs enter as logarithms. Computed
by slicing objectives (While et al., "A faster algorithm for calculating hypervolume", IEEE
Transactions on Evolutionary Computation 10(1), 2006, section III), with a vectorised sweep
for the last two objectives. That is quadratic in the points for three objectives, which suits
fronts: they hold tens of points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autopeft.records import TrialState
from autopeft.results.front import ObjectiveScale, non_dominated, pareto_front


def hypervolume(
    scores: NDArray[np.float64], costs: NDArray[np.float64], scale: ObjectiveScale
) -> float:
    """Return the part of the objective space that the points dominate, in [0, 1].

    Args:
        scores: ``n`` scores, more is better.
        costs: ``n x m`` natural logarithms of costs, less is better, as ``scale.costs`` gives.
        scale: Reference and ideal of each objective.

    Points outside the box are clipped to it, so that one beyond the ideal counts as ideal and
    one worse than the reference adds nothing. Points with NaN or infinite values are left out.
    An objective whose ideal equals its reference has no extent: being at least that good counts
    as 1, anything else as 0.
    """
    return dominated_volume(benefits(scores, costs, scale))


def benefits(
    scores: NDArray[np.float64], costs: NDArray[np.float64], scale: ObjectiveScale
) -> NDArray[np.float64]:
    """Return ``k x (1 + m)`` values in [0, 1], more is better: the ``k <= n`` finite points."""
    scores = np.asarray(scores, dtype=np.float64).reshape(-1)
    costs = np.asarray(costs, dtype=np.float64).reshape(len(scores), len(scale.cost_names))
    values = np.column_stack([scores, -costs])
    values = values[np.isfinite(values).all(axis=1)]
    reference = np.array([scale.score_reference, *-scale.cost_reference_point])
    ideal = np.array([scale.score_ideal, *-scale.cost_ideal_point])
    extent = ideal - reference
    flat = extent <= 0
    scaled = (values - reference) / np.where(flat, 1.0, extent)
    return np.where(flat, values >= ideal, np.clip(scaled, 0.0, 1.0)).astype(np.float64)


def dominated_volume(points: NDArray[np.float64]) -> float:
    """Return the volume of the union of the boxes from the origin to each of ``n x d`` points.

    Coordinates are at least 0. Exact up to rounding for any ``d >= 1``.
    """
    if points.size == 0:
        return 0.0
    keep = non_dominated(points[:, 0], -points[:, 1:])
    return _slice(points[keep])


def _slice(points: NDArray[np.float64]) -> float:
    """Sum slices along the last objective, each as thick as the step to the next point."""
    dimensions = points.shape[1]
    if dimensions == 1:
        return float(points.max())
    order = np.argsort(-points[:, -1], kind="stable")
    points = points[order]
    thickness = points[:, -1] - np.append(points[1:, -1], 0.0)
    if dimensions == 2:
        return float(np.sum(thickness * np.maximum.accumulate(points[:, 0])))
    return sum(
        float(thickness[i]) * _slice(points[: i + 1, :-1]) for i in np.flatnonzero(thickness)
    )


def front_hypervolume(states: Sequence[TrialState], scale: ObjectiveScale) -> float:
    """Return the hypervolume of the completed trials among ``states``."""
    front = pareto_front(states, scale)
    scores = np.array([state.score for state in front], dtype=np.float64)
    return hypervolume(scores, scale.costs([state.costs for state in front]), scale)
