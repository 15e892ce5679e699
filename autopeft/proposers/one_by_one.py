"""What proposers share that choose one configuration at a time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence

from autopeft.proposers.base import Proposer
from autopeft.proposers.unseen import next_sobol
from autopeft.records import Proposal, Trial, TrialState, TrialStatus
from autopeft.search_spaces.configuration import Configuration

#: Steps of the walk away from a configuration that is known, in search of one that is not.
MAX_WALK = 64


class OneByOneProposer(Proposer):
    """Asking for n at once equals asking n times, each proposal pending when the next is chosen."""

    def propose(self, n: int) -> list[Proposal]:
        """Return up to ``n`` configurations, best first."""
        states = dict(self.states)
        proposals: list[Proposal] = []
        for _ in range(n):
            proposal = self.propose_one([states[number] for number in sorted(states)])
            if proposal is None:
                break
            proposals.append(proposal)
            pending = self._pending(proposal, number=max(states, default=-1) + 1)
            states[pending.trial.number] = pending
        return proposals

    @abstractmethod
    def propose_one(self, states: Sequence[TrialState]) -> Proposal | None:
        """Return one configuration, given every trial by number; None where there is no more."""

    def sobol(self, states: Sequence[TrialState], origin: str) -> Proposal | None:
        """Propose the next point of the space's scrambled Sobol sequence that is not known."""
        known = keys_of(states)
        found = next_sobol(self.space, len(states), known, seed=self.seed, allows=self.allows)
        return None if found is None else self.proposal(found, origin)

    def settle(
        self, drawn: Iterable[Configuration], states: Sequence[TrialState]
    ) -> Configuration | None:
        """Return the first of some configurations that is not known and keeps all limits.

        Where there is none, a random walk from each of them looks for one nearby; None where
        that finds nothing either.
        """
        known = keys_of(states)
        generator = self.generator(len(states))
        starts = []
        for configuration in drawn:
            if configuration.key not in known and self.allows(configuration):
                return configuration
            starts.append(configuration)
        for configuration in dict.fromkeys(starts):
            for _ in range(MAX_WALK):
                configuration = self.space.mutate(configuration, generator)
                if configuration.key not in known and self.allows(configuration):
                    return configuration
        return None

    def _pending(self, proposal: Proposal, *, number: int) -> TrialState:
        trial = Trial(
            number=number,
            configuration=proposal.configuration,
            seed=self.seed,
            origin=proposal.origin,
            costs=self.costs([proposal.configuration])[0],
        )
        return TrialState(trial=trial, status=TrialStatus.PROPOSED)


def keys_of(states: Sequence[TrialState]) -> set[str]:
    """Return the keys of the configurations of some trials."""
    return {state.trial.configuration.key for state in states}
