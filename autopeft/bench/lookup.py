"""A search among the rows of a table: what optimisers ask for was trained before.

The space is the recorded one with nothing in it but the table's configurations; the world answers
with recorded curves. Nothing is modelled, so nothing can be wrong but the choice of rows: that is
why a comparison begins here, and goes on with :mod:`autopeft.bench.surrogate`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autopeft.bench.table import Table
from autopeft.records import Costs, FailureKind, Proposal, Trial
from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.space import SearchSpace
from autopeft.workers.executors.simulated import Outcome

Array = NDArray[np.float64]

#: A mutant is the k-th nearest row with a probability that falls geometrically: the parameter.
NEARNESS = 0.25
#: Failures by what the table calls the state of a trial.
FAILURES: Mapping[str, FailureKind] = {
    "diverged": FailureKind.DIVERGED,
    "infeasible": FailureKind.OUT_OF_MEMORY,
    "failed": FailureKind.ERROR,
}


class LookupSpace(SearchSpace):
    """A space with some of its members only.

    What would make up a configuration (a sample, a mutant, a decoded point, the nearest member)
    gives one of the rows instead: the nearest in encoded distance where there is one to be near
    to. So optimisers that compute points of the full space take part too, at the price that
    several of their points are one row.

    Args:
        space: The full space.
        rows: Its members that are left, at least one.
    """

    def __init__(self, space: SearchSpace, rows: Sequence[Configuration]) -> None:
        assert rows, "a space without members"
        self.__dict__.update(space.__dict__)
        self.rows = tuple(dict.fromkeys(rows))
        self._place = {row: i for i, row in enumerate(self.rows)}
        self._X = super().encode(self.rows)
        squares = ((self._X[:, None, :] - self._X[None, :, :]) ** 2).sum(axis=2)
        np.fill_diagonal(squares, -1.0)
        #: Places of the other rows, the nearest first.
        self._others = np.argsort(squares, axis=1, kind="stable")[:, 1:]

    def sample(self, n: int, generator: np.random.Generator) -> list[Configuration]:
        """Draw up to ``n`` distinct rows, each as likely as any other."""
        return [self.rows[i] for i in generator.permutation(len(self.rows))[:n]]

    def sobol(self, n: int, *, seed: int, skip: int = 0) -> list[Configuration]:
        """Return entries ``skip`` to ``skip + n`` of the rows in random order, again and again."""
        order = np.random.default_rng([seed, len(self.rows)]).permutation(len(self.rows))
        return [self.rows[order[k % len(order)]] for k in range(skip, skip + n)]

    def mutate(self, configuration: Configuration, generator: np.random.Generator) -> Configuration:
        """Return another row, the nearer the likelier."""
        place = self._place.get(configuration)
        if place is None:
            return self._nearest_row(super().encode([configuration])[0])
        if len(self.rows) == 1:
            return configuration
        rank = (int(generator.geometric(NEARNESS)) - 1) % (len(self.rows) - 1)
        return self.rows[int(self._others[place, rank])]

    def encode(self, configurations: Sequence[Configuration]) -> Array:
        """Return the configurations as the rows of an ``n x d`` matrix in [0, 1]."""
        places = [self._place.get(each, -1) for each in configurations]
        if min(places, default=-1) < 0:
            return super().encode(configurations)
        return self._X[places]

    def decode(self, X: ArrayLike) -> list[Configuration]:
        """Return the row nearest to each row of an ``n x d`` matrix."""
        return [self._nearest_row(x) for x in np.asarray(X, dtype=np.float64)]

    def nearest(self, configuration: Configuration) -> Configuration | None:
        """Return the row closest to a configuration; None where the full space has none."""
        member = super().nearest(configuration)
        if member is None or member in self._place:
            return member
        return self._nearest_row(super().encode([member])[0])

    def explain(self, configuration: Configuration) -> list[str]:
        """Return why a configuration is no member; nothing where it is one."""
        if configuration in self._place:
            return []
        return super().explain(configuration) or ["it is not in the table"]

    def portfolio(self) -> list[Proposal]:
        """Return known-good configurations that were recorded, cheapest first."""
        return [each for each in super().portfolio() if each.configuration in self._place]

    def _nearest_row(self, x: Array) -> Configuration:
        return self.rows[int(np.argmin(((self._X - x) ** 2).sum(axis=1)))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A recorded trial.

    Attributes:
        steps: ``k`` steps at which it was measured, growing.
        scores: ``k`` scores.
        seconds: ``k`` seconds of the segments that end there, evaluation included.
        failure: What ended it after the last of them; None where it was trained to the end.
        failed_by: Step that it did not reach.
    """

    steps: tuple[int, ...]
    scores: tuple[float, ...]
    seconds: tuple[float, ...]
    failure: FailureKind | None = None
    failed_by: int = 0

    def score_at(self, step: int) -> float:
        """Return the score at a step: between two rungs it is linear in the log of the step."""
        found = np.interp(math.log(max(step, 1)), np.log(self.steps), self.scores)
        return float(found)

    def seconds_between(self, from_step: int, to_step: int) -> float:
        """Return the seconds from one step to another, each segment's spread evenly over it."""
        ends = np.r_[0.0, self.steps]
        passed = np.r_[0.0, np.cumsum(self.seconds)]
        return float(np.interp(to_step, ends, passed) - np.interp(from_step, ends, passed))


@dataclass(kw_only=True)
class LookupWorld:
    """What training brought, and the costs of the rows.

    Args:
        table: The table.

    A configuration that was recorded from several seeds answers with one of them, drawn for it
    and the search's seed.
    """

    table: Table
    curves: dict[str, list[Curve]] = field(default_factory=dict)
    _costs: dict[str, Costs] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for _, rows in self.table.rows.groupby("trial", sort=True):
            first = rows.iloc[0]
            key = str(first["key"])
            curve = _curve_of(rows)
            if curve is None:
                continue
            self.curves.setdefault(key, []).append(curve)
            known = Costs(
                num_trainable_parameters=int(first["num_trainable_parameters"]),
                num_adapter_parameters=int(first["num_adapter_parameters"]),
                train_memory_bytes=int(first["train_memory_bytes"]),
            )
            self._costs.setdefault(key, known)

    def space(self) -> LookupSpace:
        """Return the space of the rows."""
        return LookupSpace(self.table.space, self.configurations())

    def configurations(self, *, origin: str | None = None) -> list[Configuration]:
        """Return the rows' configurations, or those of one origin."""
        origins = self.table.rows.drop_duplicates("key").set_index("key")["origin"]
        return [
            configuration
            for key, configuration in self.table.configurations.items()
            if key in self.curves and (origin is None or origins[key] == origin)
        ]

    def costs(self, configurations: Sequence[Configuration]) -> list[Costs]:
        """Return the recorded costs of rows."""
        return [self._costs[each.key] for each in configurations]

    def curve(self, configuration: Configuration, seed: int) -> Curve:
        """Return the curve of a row in a search with this seed."""
        curves = self.curves[configuration.key]
        name = int(configuration.key, 16) % 2**32
        return curves[int(np.random.default_rng([seed, name]).integers(len(curves)))]

    def outcome(self, trial: Trial, from_step: int, to_step: int) -> Outcome:
        """Return what a segment brought."""
        curve = self.curve(trial.configuration, trial.seed)
        if curve.failure is not None and to_step >= curve.failed_by:
            until = max(curve.steps[-1] if curve.steps else 0, from_step)
            seconds = curve.seconds_between(from_step, until) if curve.steps else 0.0
            return Outcome(seconds=seconds, failure=curve.failure, message="as recorded")
        score = curve.score_at(to_step)
        return outcome_of(self.table, score, curve.seconds_between(from_step, to_step))

    def true_scores(self, configurations: Sequence[Configuration]) -> dict[str, float]:
        """Return mean final scores over seeds, by key; NaN where training fails."""
        return {
            each.key: float(
                np.mean(
                    [
                        curve.scores[-1] if curve.failure is None else np.nan
                        for curve in self.curves[each.key]
                    ]
                )
            )
            for each in configurations
        }

    def num_seeds(self) -> dict[str, int]:
        """Return how many trials stand behind each row, by key."""
        return {key: len(curves) for key, curves in self.curves.items()}


def outcome_of(table: Table, score: float, seconds: float) -> Outcome:
    """Return the outcome of a segment that ended with a score."""
    sign = 1.0 if table.facts["greater_is_better"] else -1.0
    metrics = {str(table.facts["metric"]): sign * score}
    return Outcome(seconds=max(seconds, 0.0), score=score, metrics=metrics)


def _curve_of(rows: object) -> Curve | None:
    """Return the curve of one trial's rows; None where it says nothing at all."""
    import pandas as pd

    assert isinstance(rows, pd.DataFrame)
    rows = rows.sort_values("step")
    done = rows[np.isfinite(rows["score"])]
    # A busy machine stretches the seconds, and not the processor's.
    seconds = done["cpu_seconds"].where(np.isfinite(done["cpu_seconds"]), done["seconds"])
    curve = Curve(
        steps=tuple(int(step) for step in done["step"]),
        scores=tuple(float(score) for score in done["score"]),
        seconds=tuple(float(value) for value in seconds),
    )
    status = str(rows["status"].iloc[0])
    if status in FAILURES:
        missed = rows[~np.isfinite(rows["score"])]["step"]
        step = int(missed.iloc[0]) if len(missed) else int(rows["step"].max())
        return replace(curve, failure=FAILURES[status], failed_by=step)
    return curve if curve.steps else None
