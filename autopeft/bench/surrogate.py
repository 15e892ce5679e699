"""A search of the whole recorded space, with trainings foretold by an ensemble of trees.

A table answers for its rows alone. Fitted to it, trees answer for every member of the space, so
that optimisers can show what they do where nothing was recorded. They are no Gaussian process,
which would favour those who model with one. How far they can be trusted is told by
:func:`cross_validate`; seeds are put back as they were recorded: by residual curves of
configurations that score alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from autopeft.bench.lookup import Curve, LookupWorld, outcome_of
from autopeft.bench.measures import Truth
from autopeft.bench.table import Table
from autopeft.errors import AutopeftError
from autopeft.records import Costs, FailureKind, Trial
from autopeft.search_spaces.configuration import Configuration
from autopeft.surrogates.gaussian_process import GaussianProcess, Points
from autopeft.surrogates.threads import one_blas_thread
from autopeft.workers.executors.simulated import Outcome

Array = NDArray[np.float64]

NUM_TREES = 200
#: Configurations below which there is nothing to fit an ensemble to.
MIN_CONFIGURATIONS = 20
#: Folds of the cross-validation.
NUM_FOLDS = 5
#: Residual curves, of the configurations that score most alike, among which one is drawn.
NUM_ALIKE = 12
#: Configurations that are looked at to find the best there is, rounds of mutation from the best,
#: and how many are kept and mutated.
NUM_LOOKED_AT, NUM_ROUNDS, NUM_KEPT, NUM_MUTANTS = 4000, 8, 16, 8
#: Scores of a metric that ends at 1 are modelled as logits, no nearer to the ends than this.
CLIP = 0.002


class Ensemble:
    """Predicts whole curves from encoded configurations.

    The mean of extremely randomised trees, of a random forest and of boosted trees, which err in
    different ways.

    Args:
        X: ``n x d`` encoded configurations.
        Y: ``n x k`` curves on the modelled scale.
        seed: Seeds the trees.
    """

    def __init__(self, X: Array, Y: Array, *, seed: int = 0) -> None:
        from sklearn.ensemble import (
            ExtraTreesRegressor,
            GradientBoostingRegressor,
            RandomForestRegressor,
        )

        shared = {"n_estimators": NUM_TREES, "random_state": seed, "n_jobs": 1}
        self._joint = [
            ExtraTreesRegressor(min_samples_leaf=2, **shared).fit(X, Y),
            RandomForestRegressor(min_samples_leaf=2, max_features=0.5, **shared).fit(X, Y),
        ]
        self._single = [
            GradientBoostingRegressor(
                n_estimators=NUM_TREES,
                learning_rate=0.05,
                max_depth=3,
                subsample=0.7,
                random_state=seed,
            ).fit(X, y)
            for y in Y.T
        ]

    def __call__(self, X: Array) -> Array:
        """Return ``n x k`` curves."""
        shape = (len(X), len(self._single))
        curves = [np.asarray(model.predict(X)).reshape(shape) for model in self._joint]
        curves.append(np.column_stack([model.predict(X) for model in self._single]))
        result: Array = np.mean(curves, axis=0)
        return result


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What an ensemble is fitted to: the mean curve of each configuration that trains.

    Attributes:
        configurations: ``n`` of them.
        X: ``n x d`` encodings.
        Z: ``n x k`` mean curves on the modelled scale.
        residuals: ``r x k`` deviations of single seeds from their mean, on the modelled scale and
            widened to what a single seed deviates from a mean over infinitely many.
        levels: ``r`` final scores, on that scale, of the configurations they are of.
    """

    configurations: tuple[Configuration, ...]
    X: Array
    Z: Array
    residuals: Array
    levels: Array


class SurrogateWorld:
    """What training would bring, foretold, for every member of a table's space.

    Args:
        table: The table.
        recorded: Its rows.

    Raises:
        AutopeftError: the table holds too little.
    """

    def __init__(self, table: Table, recorded: LookupWorld) -> None:
        num_trained = sum(curves[0].failure is None for curves in recorded.curves.values())
        if num_trained < MIN_CONFIGURATIONS:
            raise AutopeftError(
                f"table {table.name!r} holds {num_trained} trained configurations; a surrogate "
                f"takes at least {MIN_CONFIGURATIONS}",
                hint="record more with `autopeft bench table`, or search its rows: --world lookup",
            )
        self.table = table
        self.space = table.space
        self._rows = recorded
        self.known = _recorded(table, recorded)
        self._ensemble = Ensemble(self.known.X, self.known.Z)
        self._curves: dict[str, Array] = {}
        self._diverged: dict[str, bool] = {}

    def costs(self, configurations: Sequence[Configuration]) -> list[Costs]:
        """Return exact parameters, and memory as a smooth model of the recorded one."""
        if not configurations:
            return []
        scale = self._memory_scale
        with one_blas_thread():
            points = Points.untried(self._memory_inputs(configurations))
            mean, _ = self._memory.predict(points)
        head = self.space.shape.num_head_parameters
        counts = [self.space.num_adapter_parameters(each) for each in configurations]
        return [
            Costs(
                num_trainable_parameters=count + head,
                num_adapter_parameters=count,
                train_memory_bytes=round(math.exp(scale[0] + scale[1] * value)),
            )
            for count, value in zip(counts, mean.tolist(), strict=True)
        ]

    def outcome(self, trial: Trial, from_step: int, to_step: int) -> Outcome:
        """Return what a segment would bring."""
        configuration = trial.configuration
        curve = self._seeded(configuration, trial.seed)
        seconds = curve.seconds_between(from_step, to_step)
        if self.diverges([configuration])[0] and to_step >= self.table.rungs[0]:
            return Outcome(seconds=seconds, failure=FailureKind.DIVERGED, message="as foretold")
        return outcome_of(self.table, curve.score_at(to_step), seconds)

    def means(self, configurations: Sequence[Configuration]) -> Array:
        """Return ``n x k`` curves without noise, in units of the score."""
        new = list({c.key: c for c in configurations if c.key not in self._curves}.values())
        if new:
            for each, curve in zip(new, self._ensemble(self.space.encode(new)), strict=True):
                self._curves[each.key] = curve
        return from_scale(np.array([self._curves[c.key] for c in configurations]), self.table)

    def true_scores(self, configurations: Sequence[Configuration]) -> dict[str, float]:
        """Return final scores without noise, by key; NaN where training fails."""
        if not configurations:
            return {}
        finals = self.means(configurations)[:, -1].tolist()
        failed = self.diverges(configurations)
        return {
            each.key: math.nan if is_lost else final
            for each, final, is_lost in zip(configurations, finals, failed, strict=True)
        }

    def diverges(self, configurations: Sequence[Configuration]) -> list[bool]:
        """Tell which trainings end in NaN; the same for every seed."""
        if self._divergence is None:
            return [False] * len(configurations)
        new = list({c.key: c for c in configurations if c.key not in self._diverged}.values())
        if new:
            chances = self._divergence.predict_proba(self.space.encode(new))[:, 1].tolist()
            for each, chance in zip(new, chances, strict=True):
                draw = np.random.default_rng(int(each.key, 16) % 2**32).random()
                self._diverged[each.key] = bool(draw < chance)
        return [self._diverged[each.key] for each in configurations]

    def _seeded(self, configuration: Configuration, seed: int) -> Curve:
        (mean,) = self.means([configuration])
        z = to_scale(mean[None], self.table)[0]
        if len(self.known.residuals):
            alike = np.argsort(np.abs(self.known.levels - z[-1]), kind="stable")[:NUM_ALIKE]
            name = int(configuration.key, 16) % 2**32
            generator = np.random.default_rng([seed, name])
            residual = self.known.residuals[alike[int(generator.integers(len(alike)))]]
            z = z + residual * (1.0 if generator.random() < 0.5 else -1.0)
        scores = from_scale(z[None], self.table)[0]
        return Curve(
            steps=self.table.rungs,
            scores=tuple(float(score) for score in scores),
            seconds=tuple(float(value) for value in self._seconds(configuration)),
        )

    def _seconds(self, configuration: Configuration) -> Array:
        """Return the seconds of each segment between rungs."""
        weights, centre, share = self._pace
        x = np.r_[1.0, self.space.encode([configuration])[0] - centre]
        result: Array = math.exp(float(x @ weights)) * share
        return result

    @cached_property
    def _pace(self) -> tuple[Array, Array, Array]:
        """Weights of the log of a trial's seconds, where they are centred, shares of segments."""
        curves = [self._rows.curves[c.key][0] for c in self.known.configurations]
        seconds = np.array([curve.seconds for curve in curves])
        total = np.log(seconds.sum(axis=1))
        centre = self.known.X.mean(axis=0)
        X = np.column_stack([np.ones(len(total)), self.known.X - centre])
        penalty = np.diag(np.r_[0.0, np.full(X.shape[1] - 1, 0.5)])
        weights = np.linalg.solve(X.T @ X + penalty, X.T @ total)
        share = np.median(seconds / seconds.sum(axis=1, keepdims=True), axis=0)
        return weights, centre, share / share.sum()

    def _memory_inputs(self, configurations: Sequence[Configuration]) -> Array:
        """Return encodings with the adapter's size and the lowest layer it stands on."""
        depth = max(1, self.space.shape.num_layers)
        further = [
            [
                math.log1p(self.space.num_adapter_parameters(each)) / 16,
                min((min(m.layers, default=depth) for m in each.modules), default=depth) / depth,
            ]
            for each in configurations
        ]
        return np.column_stack([self.space.encode(configurations), np.array(further)])

    @cached_property
    def _memory_logs(self) -> Array:
        costs = self._rows.costs(self.known.configurations)
        return np.log([cost.train_memory_bytes for cost in costs])

    @cached_property
    def _memory_scale(self) -> tuple[float, float]:
        logs = self._memory_logs
        return float(logs.mean()), float(logs.std()) or 1.0

    @cached_property
    def _memory(self) -> GaussianProcess:
        centre, spread = self._memory_scale
        points = Points.untried(self._memory_inputs(self.known.configurations))
        numbered = Points(X=points.X, progress=points.progress, trials=np.arange(len(points)))
        return GaussianProcess.fit(numbered, (self._memory_logs - centre) / spread)

    @cached_property
    def _divergence(self) -> Any:
        """A classifier of what diverges; None where nothing recorded did."""
        from sklearn.ensemble import RandomForestClassifier

        members = self._rows.configurations()
        failed = [any(c.failure for c in self._rows.curves[each.key]) for each in members]
        if not any(failed) or all(failed):
            return None
        forest = RandomForestClassifier(
            n_estimators=NUM_TREES, min_samples_leaf=2, random_state=0, n_jobs=1
        )
        return forest.fit(self.space.encode(members), failed)

    def truth(self) -> Truth:
        """Return what there is to find: the best of many members at each budget, and the front.

        Members are drawn from the space and mutated from the best of each budget and from the
        front, round by round; true scores are those without noise.
        """
        generator = np.random.default_rng(0)
        scores: dict[str, float] = {}
        costs: dict[str, Costs] = {}
        members: dict[str, Configuration] = {}

        def look(configurations: Sequence[Configuration]) -> None:
            new = list({c.key: c for c in configurations if c.key not in scores}.values())
            if not new:
                return
            scores.update(self.true_scores(new))
            costs.update({each.key: c for each, c in zip(new, self.costs(new), strict=True)})
            members.update({each.key: each for each in new})

        look([p.configuration for p in self.space.portfolio()])
        look(self.known.configurations)
        look(self.space.sample(NUM_LOOKED_AT, generator))
        truth = Truth.of(self.table.scale, scores, costs)
        for _ in range(NUM_ROUNDS):
            keys = [key for key, score in scores.items() if math.isfinite(score)]
            values = np.array([scores[key] for key in keys])
            parents = list(truth.front)
            for budget in truth.budgets:
                kept = np.flatnonzero(budget.keeps([costs[key] for key in keys]))
                best = kept[np.argsort(-values[kept], kind="stable")[:NUM_KEPT]]
                parents += [keys[i] for i in best]
            look(
                [
                    self.space.mutate(members[key], generator)
                    for key in dict.fromkeys(parents)
                    for _ in range(NUM_MUTANTS)
                ]
            )
            truth = Truth.of(self.table.scale, scores, costs)
        return truth


def cross_validate(table: Table) -> dict[str, Any]:
    """Return how well the ensemble foretells final scores it was not fitted to.

    Returns:
        ``rmse`` and ``kendall_tau`` over all configurations and over the best tenth (at least
        8), in units of the score, with the standard deviation of seeds to compare with.
    """
    known = _recorded(table, LookupWorld(table=table))
    n = len(known.X)
    fold = np.random.default_rng(0).permutation(n) % NUM_FOLDS
    foretold = np.empty(n)
    for k in range(NUM_FOLDS):
        ensemble = Ensemble(known.X[fold != k], known.Z[fold != k])
        foretold[fold == k] = from_scale(ensemble(known.X[fold == k]), table)[:, -1]
    actual = from_scale(known.Z, table)[:, -1]
    best = np.argsort(-actual, kind="stable")[: max(8, n // 10)]
    noise = table.noise()

    def told(rows: NDArray[np.intp]) -> dict[str, float]:
        return {
            "configurations": len(rows),
            "rmse": float(np.sqrt(np.mean((foretold[rows] - actual[rows]) ** 2))),
            "bias": float(np.mean(foretold[rows] - actual[rows])),
            "kendall_tau": float(kendalltau(foretold[rows], actual[rows])[0]),
        }

    return {
        "all": told(np.arange(n)),
        "best_tenth": told(best),
        "standard_deviation_of_scores": float(actual.std()),
        "standard_deviation_of_seeds": float(noise.within**0.5),
    }


def to_scale(scores: Array, table: Table) -> Array:
    """Return scores on the scale they are modelled on: logits where they end at 1."""
    if table.scale.score_ideal != 1.0:
        return np.asarray(scores, dtype=np.float64)
    clipped = np.clip(scores, CLIP, 1 - CLIP)
    result: Array = np.log(clipped) - np.log1p(-clipped)
    return result


def from_scale(z: Array, table: Table) -> Array:
    """Return what :meth:`to_scale` was given."""
    if table.scale.score_ideal != 1.0:
        return np.asarray(z, dtype=np.float64)
    result: Array = 1 / (1 + np.exp(-np.asarray(z, dtype=np.float64)))
    return result


def _recorded(table: Table, rows: LookupWorld) -> Recorded:
    members, means, residuals, levels = [], [], [], []
    for each in rows.configurations():
        curves = [c for c in rows.curves[each.key] if c.failure is None]
        curves = [c for c in curves if c.steps == table.rungs]
        if not curves:
            continue
        Z = to_scale(np.array([c.scores for c in curves]), table)
        members.append(each)
        means.append(Z.mean(axis=0))
        if len(curves) > 1:
            widened = math.sqrt(len(curves) / (len(curves) - 1))
            residuals += list((Z - means[-1]) * widened)
            levels += [means[-1][-1]] * len(curves)
    k = len(table.rungs)
    return Recorded(
        configurations=tuple(members),
        X=table.space.encode(members),
        Z=np.array(means).reshape(-1, k),
        residuals=np.array(residuals).reshape(-1, k),
        levels=np.array(levels),
    )
