"""A model of final scores that also learns from the curves of stopped trials."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopeft.records import TrialState, TrialStatus
from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.space import SearchSpace
from autopeft.surrogates.gaussian_process import (
    GaussianProcess,
    Hyperparameters,
    Points,
    fit_hyperparameters,
)

Array = NDArray[np.float64]

#: Most measurements that enter a fit. Exact inference grows with their cube.
MAX_POINTS = 400
#: Most measurements that hyperparameters are fitted to: they hardly change with more.
MAX_FIT_POINTS = 256
#: Most fits that are remembered.
MAX_FITTED = 512
#: Fits, by a digest of what they were fitted to and started from.
_FITTED: dict[bytes, Hyperparameters] = {}
#: Most by which the spread of scores grows or shrinks from one rung to the next, and the weight,
#: in trials, of the guess that it does not.
MAX_SLOPE, PRIOR_PAIRS = 4.0, 3.0
#: Most units of scale by which the best score lies above the centre.
MAX_ABOVE = 4.0
#: Trials whose measurements say nothing about what their configuration scores.
BROKEN = frozenset({TrialStatus.DIVERGED, TrialStatus.INFEASIBLE, TrialStatus.FAILED})


@dataclass(frozen=True, slots=True, kw_only=True)
class RungLines:
    """What a score at a step would be worth at the last step measured, by one line per step.

    Scores rise and spread out along the way. Between neighbouring steps the trials measured at
    both say how: the line that maps their mean and spread at the one onto those at the other.
    Lines are increasing, so that no order within a step changes; what differs from trial to
    trial is the Gaussian process's to learn.

    Attributes:
        lines: By step, ``(at, to, slope)``: a score becomes ``to + slope (score - at)``.
    """

    lines: Mapping[int, tuple[float, float, float]]

    @classmethod
    def fit(cls, curves: Sequence[Mapping[int, float]]) -> RungLines:
        """Fit to curves, each the finite scores of one trial by step."""
        steps = sorted({step for curve in curves for step in curve}, reverse=True)
        lines = dict.fromkeys(steps[:1], (0.0, 0.0, 1.0))
        for later, step in pairwise(steps):
            both = [curve for curve in curves if step in curve and later in curve]
            before = np.array([curve[step] for curve in both])
            after = np.array([curve[later] for curve in both])
            at_later, to_later, slope_later = lines[later]
            if not both:
                lines[step] = lines[later]
                continue
            # As many trials as PRIOR_PAIRS say that the spread stays as it is.
            spread = float(np.std(after)) + 1e-12, float(np.std(before)) + 1e-12
            slope = float(np.clip(spread[0] / spread[1], 1 / MAX_SLOPE, MAX_SLOPE))
            slope = slope ** ((len(both) - 1) / (len(both) - 1 + PRIOR_PAIRS))
            to = to_later + slope_later * (float(after.mean()) - at_later)
            lines[step] = (float(before.mean()), to, slope_later * slope)
        return cls(lines=lines)

    def __call__(self, score: float, step: int) -> float:
        """Return the carried score; a step never measured is carried as the next one is."""
        known = [s for s in self.lines if s >= step]
        if not known:
            return score
        at, to, slope = self.lines[min(known)]
        return to + slope * (score - at)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreWarp:
    """A strictly increasing map of scores to about unit scale, gentle with bad outliers.

    Linear from ``knee`` units below the centre upwards, logarithmic below it: a trial that fell
    to chance is known to be bad, but by how much does not bend the model. Being increasing, it
    keeps every order and so every front.

    Attributes:
        centre: Median of the scores.
        scale: Their interquartile range over that of a unit Gaussian, or so much more that no
            score lies above MAX_ABOVE.
        knee: Where the logarithm starts, in units of scale.
    """

    centre: float
    scale: float
    knee: float = 2.0

    @classmethod
    def fit(cls, scores: Array) -> ScoreWarp:
        """Fit to finite scores; constant ones, or none, get scale 1."""
        if not len(scores):
            return cls(centre=0.0, scale=1.0)
        low, centre, high = (float(q) for q in np.quantile(scores, [0.25, 0.5, 0.75]))
        scale = max((high - low) / 1.349, (float(scores.max()) - centre) / MAX_ABOVE)
        scale = scale or float(np.mean(np.abs(scores - centre)))
        is_constant = scale <= 1e-9 * max(1.0, abs(centre))
        return cls(centre=centre, scale=1.0 if is_constant else scale)

    def __call__(self, scores: Array) -> Array:
        """Return warped scores of the same shape."""
        z = (np.asarray(scores, dtype=np.float64) - self.centre) / self.scale
        below = np.maximum(-z - self.knee, 0.0)
        return np.where(below > 0, -self.knee - np.log1p(below), z)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Data:
    """What a process is conditioned on.

    Attributes:
        lines: Carry scores to the last step.
        warp: Maps what was carried to about unit scale.
        points: ``n`` points.
        y: ``n`` warped scores.
    """

    lines: RungLines
    warp: ScoreWarp
    points: Points
    y: Array


class CurveModel:
    """The posterior over warped scores, given every curve of a job.

    Its hyperparameters are those of the first trials of the job alone, as many as the last
    :func:`milestone` that was passed, found by starting from those of the largest power of two
    below. That is a function of the states, whatever was fitted before, and yet a fit serves
    until one of these trials is measured again.

    Args:
        space: Encodes configurations.
        states: The job's trials, in any order: the fit depends on the set alone.
        max_steps: Steps of a trial trained to the end.

    Raises:
        ValueError: no trial has a finite measurement; ask :func:`has_measurements` first.
    """

    def __init__(self, space: SearchSpace, states: Sequence[TrialState], *, max_steps: int) -> None:
        self.space = space
        self.max_steps = max_steps
        self._encoded: dict[int, Array] = {}
        ordered = sorted(states, key=lambda state: state.trial.number)
        measured = [state for state in ordered if _finite(state)]
        if not measured:
            raise ValueError("no trial has a finite measurement")
        self._remember(measured)
        data = self._data(measured)
        self.lines, self.warp = data.lines, data.warp
        num_fitted = milestone(len(measured))
        start = None
        if num_fitted > 2:
            num_start = 2 ** ((num_fitted - 1).bit_length() - 1)
            start = _known_hyperparameters(self._data(measured[:num_start]), None)
        hyperparameters = _known_hyperparameters(self._data(measured[:num_fitted]), start)
        self.process = GaussianProcess(data.points, data.y, hyperparameters)

    def _data(self, states: Sequence[TrialState]) -> _Data:
        """Return what trials with finite measurements say."""
        chosen = _chosen_measurements(states)
        lines = RungLines.fit([_finite(state) for state in states])
        carried = {number: lines(score, step) for number, step, score in chosen}
        warp = ScoreWarp.fit(np.array(list(carried.values())))
        points = Points(
            X=np.stack([self._encoded[number] for number, _, _ in chosen]),
            progress=np.array([step / self.max_steps for _, step, _ in chosen]),
            trials=np.array([number for number, _, _ in chosen], dtype=np.int64),
        )
        y = warp(np.array([lines(score, step) for _, step, score in chosen]))
        return _Data(lines=lines, warp=warp, points=points, y=y)

    def value(self, score: float, step: int) -> float:
        """Return the model's units for a score measured at a step; increasing in the score."""
        return float(self.warp(np.array(self.lines(score, step))))

    def points_of(self, states: Sequence[TrialState], progress: float = 1.0) -> Points:
        """Return the points of trials at one progress; each keeps its identity."""
        self._remember(states)
        n = len(states)
        X = np.empty((n, self.space.num_dimensions))
        for row, state in enumerate(states):
            X[row] = self._encoded[state.trial.number]
        numbers = np.array([state.trial.number for state in states], dtype=np.int64)
        return Points(X=X, progress=np.full(n, progress), trials=numbers)

    def points_untried(
        self, configurations: Sequence[Configuration], progress: float = 1.0
    ) -> Points:
        """Return the points of configurations without a trial at one progress."""
        return Points.untried(self.space.encode(configurations), progress)

    def _remember(self, states: Sequence[TrialState]) -> None:
        new = [state.trial for state in states if state.trial.number not in self._encoded]
        if new:
            encoded = self.space.encode([trial.configuration for trial in new])
            self._encoded.update({t.number: x for t, x in zip(new, encoded, strict=True)})


def milestone(n: int) -> int:
    """Return the largest number of trials, up to ``n``, at which hyperparameters are fitted anew.

    Every number up to 8, then steps of an eighth: hyperparameters hardly change in between.
    """
    found = 1
    while (after := found + max(1, found // 8)) <= n:
        found = after
    return found


def _known_hyperparameters(data: _Data, start: Hyperparameters | None) -> Hyperparameters:
    """Return the hyperparameters of maximum a posteriori; the same data are fitted once."""
    last = slice(max(0, len(data.points) - MAX_FIT_POINTS), None)
    points, y = data.points.rows(last), data.y[last]
    arrays: list[NDArray[Any]] = [points.X, points.progress, points.trials, y]
    if start is not None:
        arrays.append(start.logs)
    key = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).digest()
    found = _FITTED.get(key)
    if found is None:
        found = fit_hyperparameters(points, y, start=start)
        while len(_FITTED) >= MAX_FITTED:
            del _FITTED[next(iter(_FITTED))]
        _FITTED[key] = found
    return found


def has_measurements(states: Sequence[TrialState]) -> bool:
    """Return whether there is anything to fit a :class:`CurveModel` to."""
    return bool(_chosen_measurements(states))


def _chosen_measurements(states: Sequence[TrialState]) -> list[tuple[int, int, float]]:
    """Return (trial, step, score) of the measurements that enter a fit, the telling ones last.

    The newest measurement of every trial, then the one before it, newest trials first, up to
    :data:`MAX_POINTS`. Beyond that many trials the best half by score and the newest stay.
    """
    newest, earlier = [], []
    for state in sorted(states, key=lambda state: state.trial.number):
        finite = list(_finite(state).items())
        if finite:
            newest.append((state.trial.number, *finite[-1]))
        if len(finite) > 1:
            earlier.append((state.trial.number, *finite[-2]))
    if len(newest) > MAX_POINTS:
        best = sorted(newest, key=lambda row: (-row[2], row[0]))[: MAX_POINTS // 2]
        rest = [row for row in newest if row not in set(best)]
        newest = sorted(best + rest[len(rest) - (MAX_POINTS - len(best)) :])
    room = MAX_POINTS - len(newest)
    return (earlier[-room:] if room else []) + newest


def _finite(state: TrialState) -> dict[int, float]:
    """Return the finite scores of a trial by growing step; none for a broken one."""
    if state.status in BROKEN:
        return {}
    return {m.step: m.score for m in state.curve if np.isfinite(m.score)}
