"""The seam ``Proposer``: what to try next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np

from autopeft.records import Costs, Proposal, TrialState
from autopeft.registry import Registry
from autopeft.results.front import ObjectiveScale
from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.space import SearchSpace

#: Costs of many configurations at once, in order: exact parameters, predicted memory.
CostFunction = Callable[[Sequence[Configuration]], list[Costs]]


class Proposer(ABC):
    """Propose configurations, learning from every measurement.

    Contract:
        * ``observe`` is called with the newest state of a trial whenever it changes, first
          when it is proposed; a later state of the same trial number replaces the earlier
          one. Feeding the states of a stored job into a new proposer rebuilds it exactly:
          what is proposed depends on the seed, on the observed states and on nothing else
          (no clock, no global random state, no hidden warm start).
        * ``propose`` never returns a configuration already observed (pending, infeasible and
          diverged ones included) nor one twice, and only members of the space.
        * Proposal number k (the count of observed trials) draws from ``generator(k)``.
        * It may return fewer than asked only where the space is exhausted, as far as
          constraints on known costs allow its members.
        * Costs reach it as a function; it needs no model.

    Args:
        space: Where to search.
        scale: The objectives: which there are, how costs are compared, the reference point.
        costs: Costs of configurations.
        max_steps: Optimiser steps of a trial trained to the end.
        seed: Seeds every draw.
    """

    def __init__(
        self,
        space: SearchSpace,
        scale: ObjectiveScale,
        costs: CostFunction,
        *,
        max_steps: int,
        seed: int,
    ) -> None:
        self.space = space
        self.scale = scale
        self.costs = costs
        self.max_steps = max_steps
        self.seed = seed
        self.states: dict[int, TrialState] = {}

    def observe(self, state: TrialState) -> None:
        """Take in the newest state of one trial."""
        self.states[state.trial.number] = state

    @abstractmethod
    def propose(self, n: int) -> list[Proposal]:
        """Return up to ``n`` configurations worth a trial each, best first."""

    def generator(self, k: int) -> np.random.Generator:
        """Return the random generator of proposal number ``k``."""
        return np.random.default_rng([self.seed, k])

    def allows(self, configuration: Configuration) -> bool:
        """Tell whether a configuration keeps the job's constraints on costs known beforehand."""
        if not self.scale.constraints:
            return True
        return self.scale.allows(self.costs([configuration])[0])

    @property
    def known_keys(self) -> set[str]:
        """Keys of all configurations that have a trial."""
        return {state.trial.configuration.key for state in self.states.values()}


PROPOSERS: Registry[Proposer] = Registry("proposers", package="autopeft.proposers")
