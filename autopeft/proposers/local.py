"""Local search from the default configuration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autopeft.proposers.base import PROPOSERS
from autopeft.proposers.one_by_one import OneByOneProposer
from autopeft.proposers.outcomes import Outcomes
from autopeft.records import BASELINE_ORIGINS, Proposal, TrialState
from autopeft.results.front import non_dominated


@PROPOSERS.register("local")
class LocalProposer(OneByOneProposer):
    """Try a neighbour of a random member of the front, beginning from plain LoRA.

    Source: Pareto local search (Paquete et al., "Pareto local optimum sets in the biobjective
    traveling salesman problem", 2004), with one random neighbour at a time instead of the whole
    neighbourhood. The front is that of the trials trained to the end, or while there are none of
    all. It begins from plain LoRA on all linear layers, where the space has that.
    """

    def propose_one(self, states: Sequence[TrialState]) -> Proposal | None:
        """Return a neighbour of a member of the front."""
        if not states:
            portfolio = self.space.portfolio()
            starts = [p for p in portfolio if p.origin in BASELINE_ORIGINS] + portfolio
            for start in starts:
                if self.allows(start.configuration):
                    return self.proposal(start.configuration, start.origin)
            return self.sobol(states, "local:random")
        outcomes = Outcomes.of(self, states)
        if outcomes.is_complete.any():
            outcomes = outcomes.rows(np.flatnonzero(outcomes.is_complete))
        generator = self.generator(len(states))
        front = np.flatnonzero(non_dominated(outcomes.scores, outcomes.costs))
        parents = [outcomes.configurations[i] for i in generator.permutation(front)]
        parents = parents or [states[0].trial.configuration]
        found = self.settle((self.space.mutate(each, generator) for each in parents), states)
        if found is None:
            return self.sobol(states, "local:random")
        return self.proposal(found, "local")
