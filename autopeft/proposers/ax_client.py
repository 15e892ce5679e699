"""Ax's default optimiser as a proposer."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from autopeft.errors import AutopeftError
from autopeft.proposers.base import PROPOSERS
from autopeft.proposers.one_by_one import OneByOneProposer
from autopeft.proposers.outcomes import Outcomes
from autopeft.records import Proposal, TrialState
from autopeft.search_spaces.configuration import Configuration
from autopeft.surrogates.threads import one_blas_thread


@PROPOSERS.register("ax")
class AxProposer(OneByOneProposer):
    """Propose what Ax suggests by default: Sobol points, then Bayesian optimisation.

    The parameters are the dimensions of the encoded space, from 0 to 1; a suggestion stands for
    the nearest configuration. Costs are told without noise, scores with noise unknown. Ax stops
    no trials of several objectives by default; one that was stopped here enters with its last
    score, a pending one as running.

    Raises:
        AutopeftError: Ax is not installed.
    """

    def propose_one(self, states: Sequence[TrialState]) -> Proposal | None:
        """Return Ax's suggestion, or a neighbour of it where it is known."""
        outcomes = Outcomes.of(self, states)
        found = self.settle(self._suggestions(outcomes, len(states)), states)
        return self.sobol(states, "ax") if found is None else self.proposal(found, "ax")

    def _suggestions(self, outcomes: Outcomes, k: int) -> Iterator[Configuration]:
        Client, RangeParameterConfig = _ax()
        seed = int(self.generator(k).integers(2**31))
        names = [f"x{i:03d}" for i in range(self.space.num_dimensions)]
        cost_names = [f"cost{i}" for i in range(outcomes.costs.shape[1])]
        with _quiet(), one_blas_thread():
            client = Client(random_seed=seed)
            client.configure_experiment(
                [
                    RangeParameterConfig(name=name, bounds=(0.0, 1.0), parameter_type="float")
                    for name in names
                ]
            )
            client.configure_optimization(
                ", ".join(["score", *(f"-{name}" for name in cost_names)])
            )
            client.configure_generation_strategy(initialization_random_seed=self.seed)
            members = [*outcomes.configurations, *outcomes.pending]
            X = self.space.encode(members) if members else np.empty((0, len(names)))
            for place, x in enumerate(X):
                parameters = dict(zip(names, map(float, x), strict=True))
                index = client.attach_trial(parameters=parameters)
                if place >= len(outcomes):
                    continue
                told = {"score": float(outcomes.scores[place])} | {
                    name: (float(cost), 0.0)
                    for name, cost in zip(cost_names, outcomes.costs[place], strict=True)
                }
                client.complete_trial(trial_index=index, raw_data=told)
            (suggested,) = client.get_next_trials(max_trials=1).values()
            yield self.space.decode([[float(suggested[name]) for name in names]])[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let Ax log errors only, and none of its dependencies warn."""
    handlers = logging.getLogger("ax").handlers
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)


def _ax() -> tuple[Any, Any]:
    """Import Ax, which is not as quiet as it should be."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from ax.api.client import Client
            from ax.api.configs import RangeParameterConfig
    except ImportError as error:
        raise AutopeftError(
            "proposer 'ax' needs Ax, which is not installed",
            hint="pip install 'autopeft[ax]'",
        ) from error
    return Client, RangeParameterConfig
