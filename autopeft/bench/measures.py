"""What a search is worth: cost to a target at preset budgets, hypervolume, recall, regret.

Everything is judged by the *true* score of a configuration, the mean over seeds, while a search
picks by what it has seen; a lucky seed helps nobody.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autopeft.proposers.expected_hypervolume_improvement import LevelPartition
from autopeft.records import Costs
from autopeft.results.front import ObjectiveScale, non_dominated
from autopeft.service.simulation import Simulation

Array = NDArray[np.float64]

#: How far from the best mean score counts as there: half a point of a score that ends at 1. Of
#: a loss it is this part of the way from a predictor that knows nothing to the best.
TOLERANCE = 0.005
#: Budgets, as parts of the way from the cheapest member of the space to the dearest in logarithms.
PARAMETER_BUDGETS = (0.25, 0.5, 0.75)
MEMORY_BUDGETS = (1 / 3, 2 / 3)
#: Part of the hypervolume there is that counts as all of it.
ENOUGH_VOLUME = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits that a user might have.

    Attributes:
        name: For people.
        limits: Largest value of each limited cost, natural units.
    """

    name: str
    limits: Mapping[str, float]

    def keeps(self, costs: Sequence[Costs]) -> NDArray[np.bool_]:
        """Tell which of ``n`` costs keep the limits."""
        kept = np.ones(len(costs), dtype=bool)
        for name, limit in self.limits.items():
            kept &= np.array([getattr(cost, name) <= limit for cost in costs], dtype=bool)
        return kept


def preset_budgets(scale: ObjectiveScale) -> list[Budget]:
    """Return the budgets of a space: of parameters, of memory, and none at all."""
    found = []
    for name, parts in (
        ("num_trainable_parameters", PARAMETER_BUDGETS),
        ("train_memory_bytes", MEMORY_BUDGETS),
    ):
        if name not in scale.cost_names:
            continue
        place = scale.cost_names.index(name)
        low, high = scale.cost_ideal[place], scale.cost_reference[place]
        for part in parts:
            limit = round(math.exp(math.log(low) + part * (math.log(high) - math.log(low))))
            found.append(Budget(name=f"{name} <= {limit:,.0f}", limits={name: limit}))
    return [*found, Budget(name="no limit", limits={})]


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What there is to find.

    Attributes:
        scale: How objectives compare; its reference point is that of the hypervolume.
        scores: True score of every known configuration, by key; NaN where it fails.
        costs: Their costs, by key.
        best: The best true score at each budget, in the budgets' order.
        budgets: The budgets.
        front: Keys of the true front.
    """

    scale: ObjectiveScale
    scores: Mapping[str, float]
    costs: Mapping[str, Costs]
    best: tuple[float, ...]
    budgets: tuple[Budget, ...]
    front: tuple[str, ...]

    @classmethod
    def of(
        cls,
        scale: ObjectiveScale,
        scores: Mapping[str, float],
        costs: Mapping[str, Costs],
        *,
        num_seeds: Mapping[str, int] | None = None,
    ) -> Truth:
        """Look for the best at each budget.

        Where it is known how many seeds stand behind each score, the best is that of the
        configurations with several, as long as a budget holds any: the largest of many single
        runs is mostly luck.
        """
        budgets = tuple(preset_budgets(scale))
        keys = [key for key, score in scores.items() if math.isfinite(score)]
        values = np.array([scores[key] for key in keys])
        several = np.array([(num_seeds or {}).get(key, 2) > 1 for key in keys])
        best = []
        for budget in budgets:
            kept = budget.keeps([costs[key] for key in keys])
            sure = kept & several
            allowed = values[sure] if sure.any() else values[kept]
            best.append(float(allowed.max()) if len(allowed) else math.nan)
        return cls(
            scale=scale,
            scores=scores,
            costs=costs,
            best=tuple(best),
            budgets=budgets,
            front=tuple(_front(scale, scores, costs)),
        )

    def knowing(self, scores: Mapping[str, float], costs: Mapping[str, Costs]) -> Truth:
        """Return the same with further configurations, which change neither best nor front."""
        return replace(self, scores={**self.scores, **scores}, costs={**self.costs, **costs})

    @property
    def tolerance(self) -> float:
        """How far from the best counts as there, in units of the score."""
        reference = self.scale.score_reference
        if self.scale.score_ideal == 1.0 or not math.isfinite(reference):
            return TOLERANCE
        return TOLERANCE * (max(self.best) - reference)

    def volume(self, keys: Sequence[str], scale: ObjectiveScale | None = None) -> float:
        """Return the hypervolume of configurations by their true scores, over logarithms of costs.

        Args:
            keys: Of configurations; those that fail are left out.
            scale: Has the reference point; the truth's own scale by default.
        """
        scale = self.scale if scale is None else scale
        known = [key for key in keys if math.isfinite(self.scores.get(key, math.nan))]
        if not known:
            return 0.0
        partition = LevelPartition.of(
            np.array([self.scores[key] for key in known]),
            scale.costs([self.costs[key] for key in known]),
            scale.score_reference,
            scale.cost_reference_point,
        )
        return partition.dominated_volume(scale.score_reference)

    def other_references(self) -> dict[str, ObjectiveScale]:
        """Return two other reference points, to see whether one decides for all.

        ``median``: the median configuration's score in place of a predictor's that knows nothing.
        ``dear``: costs e times as large as the largest.
        """
        finite = [score for score in self.scores.values() if math.isfinite(score)]
        dear = tuple(math.e * limit for limit in self.scale.cost_reference)
        return {
            "median": replace(self.scale, score_reference=float(np.median(finite))),
            "dear": replace(self.scale, cost_reference=dear),
        }


def _front(
    scale: ObjectiveScale, scores: Mapping[str, float], costs: Mapping[str, Costs]
) -> list[str]:
    """Return the keys of the front, the best score first."""
    keys = sorted(
        (k for k, score in scores.items() if math.isfinite(score)), key=lambda k: (-scores[k], k)
    )
    table = scale.costs([costs[key] for key in keys])
    # Only what costs less in something than all that score better can be on it.
    places: list[int] = []
    for i, cost in enumerate(table):
        if not np.any(np.all(table[places] <= cost, axis=1)):
            places.append(i)
    mask = non_dominated(np.array([scores[keys[i]] for i in places]), table[places])
    return [keys[i] for i, is_member in zip(places, mask, strict=True) if is_member]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A trial trained to its end, and what a search had spent by then."""

    key: str
    score: float
    steps: int
    seconds: float


def completed(simulation: Simulation) -> list[Point]:
    """Return the trials of a search that were trained to the end, in the order they ended."""
    states = simulation.log.states
    return [
        Point(
            key=states[moment.trial].trial.configuration.key,
            score=moment.score,
            steps=moment.steps,
            seconds=moment.seconds,
        )
        for moment in simulation.trace
        if moment.what == "complete" and math.isfinite(moment.score)
    ]


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What one search is worth; None stands for never.

    Attributes:
        steps_to_target: Optimiser steps until the incumbent of every budget is good enough,
            where the incumbent is the completed trial with the best score that was seen.
        seconds_to_target: Virtual seconds until then.
        steps_by_budget: Steps until that of each budget is.
        steps_to_95: Steps until the configurations that look best hold 95 % of the volume.
        final_hypervolume: Part of the volume there is that they hold at the end.
        other_hypervolumes: The same with other reference points, by name.
        igd_plus: Mean distance at the end from the true front to what is held, in units of the
            objectives' ranges.
        front_recall: Part of the true front's members that a held configuration is as good as.
        regret: By budget, true score lost at the end; NaN where nothing keeps the budget.
        steps: Steps spent in all.
        seconds: Virtual seconds in all.
        num_trials, num_completed: Trials begun, and trained to the end.
    """

    steps_to_target: float | None
    seconds_to_target: float | None
    steps_by_budget: tuple[float | None, ...]
    steps_to_95: float | None
    final_hypervolume: float
    other_hypervolumes: Mapping[str, float]
    igd_plus: float
    front_recall: float
    regret: tuple[float, ...]
    steps: int
    seconds: float
    num_trials: int
    num_completed: int


def measure(simulation: Simulation, truth: Truth) -> Measures:
    """Measure one search against what there was to find."""
    points = completed(simulation)
    steps, seconds, regret = _incumbents(points, truth)
    whole = truth.volume(truth.front)
    held: list[str] = []
    steps_to_95 = None
    for i, point in enumerate(points):
        if steps_to_95 is None:
            held = _held(points[: i + 1], truth)
            if truth.volume(held) >= ENOUGH_VOLUME * whole:
                steps_to_95 = float(point.steps)
    held = _held(points, truth)
    reached = [value for value in steps if value is not None]
    is_reached = len(reached) == len(steps)
    times = [value for value in seconds if value is not None]
    return Measures(
        steps_to_target=max(reached) if is_reached else None,
        seconds_to_target=max(times) if is_reached else None,
        steps_by_budget=tuple(steps),
        steps_to_95=steps_to_95,
        final_hypervolume=truth.volume(held) / whole,
        other_hypervolumes={
            name: truth.volume(held, scale) / truth.volume(truth.front, scale)
            for name, scale in truth.other_references().items()
        },
        igd_plus=igd_plus(held, truth),
        front_recall=front_recall([point.key for point in points], truth),
        regret=tuple(regret),
        steps=simulation.log.total_steps,
        seconds=simulation.seconds,
        num_trials=len(simulation.log.states),
        num_completed=len(points),
    )


def _incumbents(
    points: Sequence[Point], truth: Truth
) -> tuple[list[float | None], list[float | None], list[float]]:
    """Return when the incumbent of each budget got there, in steps and seconds, and its regret."""
    steps: list[float | None] = []
    seconds: list[float | None] = []
    regret = []
    keeps = [b.keeps([truth.costs[p.key] for p in points]) for b in truth.budgets]
    for kept, best in zip(keeps, truth.best, strict=True):
        incumbent: Point | None = None
        when: Point | None = None
        for point, allowed in zip(points, kept, strict=True):
            if allowed and (incumbent is None or point.score > incumbent.score):
                incumbent = point
                if when is None and truth.scores[point.key] >= best - truth.tolerance:
                    when = point
        steps.append(None if when is None else float(when.steps))
        seconds.append(None if when is None else when.seconds)
        regret.append(
            math.nan if incumbent is None else max(0.0, best - truth.scores[incumbent.key])
        )
    return steps, seconds, regret


def _held(points: Sequence[Point], truth: Truth) -> list[str]:
    """Return the keys of the front as the search sees it."""
    if not points:
        return []
    costs = truth.scale.costs([truth.costs[point.key] for point in points])
    mask = non_dominated(np.array([point.score for point in points]), costs)
    return [point.key for point, is_member in zip(points, mask, strict=True) if is_member]


def front_recall(keys: Sequence[str], truth: Truth) -> float:
    """Return the part of the true front that some configuration is as good as.

    As good means a true score within the tolerance, at costs that are no larger.
    """
    front = truth.front
    known = [key for key in keys if math.isfinite(truth.scores[key])]
    if not front or not known:
        return 0.0
    scores = np.array([truth.scores[key] for key in known])
    costs = truth.scale.costs([truth.costs[key] for key in known])
    wanted = truth.scale.costs([truth.costs[key] for key in front])
    found = [
        bool(
            np.any((scores >= truth.scores[key] - truth.tolerance) & np.all(costs <= cost, axis=1))
        )
        for key, cost in zip(front, wanted, strict=True)
    ]
    return float(np.mean(found))


def igd_plus(keys: Sequence[str], truth: Truth) -> float:
    """Return the modified inverted generational distance to the true front.

    Ishibuchi, Masuda, Tanigaki and Nojima, "Modified distance calculation in generational
    distance and inverted generational distance" (EMO 2015), equation 18: of each objective only
    what is worse counts. Objectives are in units of their ranges.
    """
    front = truth.front
    scale = truth.scale
    spans = np.maximum(scale.cost_reference_point - scale.cost_ideal_point, 1e-12)
    height = max(max(truth.best) - scale.score_reference, 1e-12)

    def coordinates(of: Sequence[str]) -> Array:
        costs = scale.costs([truth.costs[key] for key in of]) / spans
        scores = np.array([-truth.scores[key] for key in of]) / height
        return np.column_stack([scores, costs])

    wanted = coordinates(front)
    # What holds nothing stands at the reference point.
    nothing = np.r_[-scale.score_reference / height, scale.cost_reference_point / spans]
    held = coordinates(keys) if keys else nothing[None]
    worse = np.maximum(held[None, :, :] - wanted[:, None, :], 0.0)
    return float(np.sqrt((worse**2).sum(axis=2)).min(axis=1).mean())
