"""The seam ``Proposer``: what to try next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from autopeft.records import TRAIN_MEMORY_BYTES, Costs, Proposal, TrialState
from autopeft.registry import Registry
from autopeft.results.front import ObjectiveScale
from autopeft.results.memory_limit import WORKER_MEMORY, MemoryLimit
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
        * What is expected to need more memory than a worker has, or than the job allows, is not
          proposed, in the light of all that was measured and of what ran out of memory; see
          :class:`~autopeft.results.memory_limit.MemoryLimit`.

    Args:
        space: Where to search.
        scale: The objectives: which there are, how costs are compared, the reference point.
        costs: Costs of configurations.
        max_steps: Optimiser steps of a trial trained to the end.
        seed: Seeds every draw.
        memory_bytes: What a trial may need at the most; None where nothing limits it.
        exact_costs: Costs of one configuration by exact accounting, which takes longer; asked
            where a prediction is too close to the limit to be relied on.
    """

    def __init__(
        self,
        space: SearchSpace,
        scale: ObjectiveScale,
        costs: CostFunction,
        *,
        max_steps: int,
        seed: int,
        memory_bytes: float | None = None,
        exact_costs: Callable[[Configuration], Costs] | None = None,
    ) -> None:
        self.space = space
        self.scale = scale
        self.costs = costs
        self.max_steps = max_steps
        self.seed = seed
        self.states: dict[int, TrialState] = {}
        self._memory_bytes = memory_bytes
        self._exact_costs = exact_costs
        self._memory: MemoryLimit | None = None
        self._turned_down: set[str] = set()
        self._named: set[str] = set()
        self._keys: dict[int, str] = {}

    def observe(self, state: TrialState) -> None:
        """Take in the newest state of one trial."""
        number = state.trial.number
        known = self.states.get(number)
        if known is None or known.trial.configuration != state.trial.configuration:
            self._keys[number] = state.trial.configuration.key
        self.states[number] = state
        self._memory = None

    @abstractmethod
    def propose(self, n: int) -> list[Proposal]:
        """Return up to ``n`` configurations worth a trial each, best first."""

    def generator(self, k: int) -> np.random.Generator:
        """Return the random generator of proposal number ``k``."""
        return np.random.default_rng([self.seed, k])

    @property
    def memory(self) -> MemoryLimit | None:
        """What fits into the memory there is; None where nothing limits it."""
        if self._memory is None and (limit := self._least_limit) is not None:
            self._memory = MemoryLimit.of(self.states.values(), limit)
        return self._memory

    @property
    def _least_limit(self) -> float | None:
        limits = [self._memory_bytes]
        limits += [c.maximum for c in self.scale.constraints if c.name == TRAIN_MEMORY_BYTES]
        return min((limit for limit in limits if limit is not None), default=None)

    def allows(self, configuration: Configuration) -> bool:
        """Tell whether a configuration keeps all limits on what is known beforehand.

        Where memory is near its limit it is accounted for exactly. To be asked of candidates in
        the order in which they would be proposed: the limits that one breaks are named by the
        next :meth:`proposal`, once for each configuration.
        """
        memory = self.memory
        if not self.scale.constraints and memory is None:
            return True
        costs = self.costs([configuration])[0]
        if (
            memory is not None
            and self._exact_costs is not None
            and memory.is_near(configuration, costs)
        ):
            costs = self._exact_costs(configuration)
        broken = self.broken_limits(configuration, costs)
        if broken and configuration.key not in self._named:
            self._named.add(configuration.key)
            self._turned_down.update(broken)
        return not broken

    def broken_limits(self, configuration: Configuration, costs: Costs) -> tuple[str, ...]:
        """Return the names of the limits that a configuration breaks, as far as is known."""
        names = []
        if (memory := self.memory) is not None:
            expected = memory.expected_bytes(configuration, costs)
            costs = replace(costs, train_memory_bytes=round(expected))
            if self._memory_bytes is not None and expected > self._memory_bytes:
                names.append(WORKER_MEMORY)
        return (*names, *self.scale.limits_broken_by(costs))

    def proposal(self, configuration: Configuration, origin: str, *, doubt: str = "") -> Proposal:
        """Return a proposal that names the limits which turned others down since the last one."""
        names = tuple(sorted(self._turned_down))
        self._turned_down.clear()
        return Proposal(configuration=configuration, origin=origin, turned_down=names, doubt=doubt)

    def log_allowed(
        self, configurations: Sequence[Configuration], costs: Sequence[Costs]
    ) -> NDArray[np.float64]:
        """Return ``n`` log probabilities that known limits are kept; ``-inf`` where one is not.

        Args:
            configurations: ``n`` of them.
            costs: Their costs.
        """
        memory = self.memory
        found = np.zeros(len(configurations))
        if memory is not None:
            found = memory.log_probability(configurations, costs)
            costs = [
                replace(cost, train_memory_bytes=round(memory.expected_bytes(each, cost)))
                for each, cost in zip(configurations, costs, strict=True)
            ]
        allowed = np.array([self.scale.allows(cost) for cost in costs], dtype=bool)
        result: NDArray[np.float64] = np.where(allowed, found, -np.inf)
        return result

    @property
    def known_keys(self) -> set[str]:
        """Keys of all configurations that have a trial."""
        return set(self._keys.values())


PROPOSERS: Registry[Proposer] = Registry("proposers", package="autopeft.proposers")
