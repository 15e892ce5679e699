"""Scrambled Sobol points: random search that leaves no holes."""

from __future__ import annotations

from autopeft.proposers.base import PROPOSERS, Proposer
from autopeft.proposers.unseen import next_sobol
from autopeft.records import Proposal


@PROPOSERS.register("random")
class RandomProposer(Proposer):
    """Propose the points of one scrambled Sobol sequence, in order.

    The k-th proposal depends on the seed, on k and on what is already known, which it skips;
    scores play no part. The sequence is Owen-scrambled, so every point is uniform over the
    encoded dimensions (Owen, "Randomly permuted (t,m,s)-nets and (t,s)-sequences", 1995).
    """

    def propose(self, n: int) -> list[Proposal]:
        """Return the next ``n`` points of the sequence that are not known."""
        known = self.known_keys
        proposals: list[Proposal] = []
        for i in range(n):
            configuration = next_sobol(
                self.space, len(self.states) + i, known, seed=self.seed, allows=self.allows
            )
            if configuration is None:
                break
            known.add(configuration.key)
            proposals.append(self.proposal(configuration, "random"))
        return proposals
