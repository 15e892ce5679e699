"""How long a configuration trains: what a gain is to be divided by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autopeft.records import TrialState
from autopeft.search_spaces.space import SearchSpace

Array = NDArray[np.float64]

#: Variance of the logarithm of a trial's seconds that one column explains, over that which none
#: does: columns are of [0, 1].
SIGNAL_TO_NOISE = 4.0


class TrialSeconds:
    """The logarithm of the seconds of a step, linear in the encoded configuration.

    Ridge regression towards the mean of all trials: with few of them all configurations take
    about as long.

    Args:
        space: Encodes configurations.
        states: Every trial of the job.
    """

    def __init__(self, space: SearchSpace, states: Sequence[TrialState]) -> None:
        timed = [
            (state.trial.configuration, np.log(seconds / state.step))
            for state in sorted(states, key=lambda state: state.trial.number)
            if state.step
            and (seconds := sum(each.seconds for each in state.curve)) > 0
            and np.isfinite(seconds)
        ]
        d = space.num_dimensions
        self._weights = np.zeros(d)
        self._centre = np.full(d, 0.5)
        if timed:
            X = space.encode([configuration for configuration, _ in timed])
            y = np.array([value for _, value in timed])
            self._centre = X.mean(axis=0)
            Z, z = X - self._centre, y - y.mean()
            ridge = np.eye(d) / SIGNAL_TO_NOISE
            self._weights = np.linalg.solve(Z.T @ Z + ridge, Z.T @ z)

    def log(self, X: Array) -> Array:
        """Return ``n`` logarithms of the seconds a step takes over those of a mean trial.

        Args:
            X: ``n x d`` encoded configurations.
        """
        result: Array = (X - self._centre) @ self._weights
        return result
