"""Regularised evolution towards the front."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autopeft.proposers.base import PROPOSERS
from autopeft.proposers.one_by_one import OneByOneProposer
from autopeft.proposers.outcomes import Outcomes, crowding_distances, non_domination_ranks
from autopeft.records import Proposal, TrialState

#: Trials that are alive: the youngest; each time the parent is the best of a few drawn from them.
POPULATION, TOURNAMENT = 24, 6


@PROPOSERS.register("evolution")
class EvolutionProposer(OneByOneProposer):
    """Mutate the best of a few random members of a population from which the oldest die.

    Source: Real et al., "Regularized evolution for image classifier architecture search", AAAI
    2019, algorithm 1: the population is the last :data:`POPULATION` trials, the first of them
    drawn from the space. Deviations: with several objectives the best is the one that was trained
    to the end before one that was not, then the one of the lower non-domination rank, then the
    less crowded (Deb et al., NSGA-II, 2002); a mutant that is known is mutated further.
    """

    def propose_one(self, states: Sequence[TrialState]) -> Proposal | None:
        """Return a mutant of the winner of a tournament."""
        outcomes = Outcomes.of(self, states)
        if len(states) < POPULATION or not len(outcomes):
            return self.sobol(states, "evolution:random")
        alive = outcomes.rows(np.arange(max(0, len(outcomes) - POPULATION), len(outcomes)))
        generator = self.generator(len(states))
        drawn = generator.permutation(len(alive))[:TOURNAMENT]
        ranks = non_domination_ranks(alive.scores, alive.costs)
        crowding = crowding_distances(np.column_stack([alive.scores, alive.costs]))
        parent = min(drawn, key=lambda i: (not alive.is_complete[i], ranks[i], -crowding[i], i))
        mutant = self.space.mutate(alive.configurations[parent], generator)
        found = self.settle([mutant], states)
        if found is None:
            return self.sobol(states, "evolution:random")
        return self.proposal(found, "evolution")
