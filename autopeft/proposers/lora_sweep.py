"""The baseline everybody knows: LoRA on all linear layers, rank and learning rate swept."""

from __future__ import annotations

from typing import Any

from autopeft.proposers.base import PROPOSERS, CostFunction, Proposer
from autopeft.proposers.unseen import next_sobol
from autopeft.records import Proposal
from autopeft.results.front import ObjectiveScale
from autopeft.search_spaces.space import SearchSpace, lora_sweep_space


@PROPOSERS.register("lora-sweep")
class LoraSweepProposer(Proposer):
    """Propose ranks and learning rates that fill their plane evenly, in any number.

    It sweeps its own space, whatever space the job searches, so that the baseline is the same
    everywhere: LoRA on every linear layer of the model (Hu et al., "LoRA: Low-rank adaptation of
    large language models", ICLR 2022; on all layers as in Dettmers et al., "QLoRA", NeurIPS
    2023). Published variants of LoRA shrink to within 1-2 % of it once its learning rate is tuned
    (arXiv 2602.04998), so it is the arm to beat.
    """

    def __init__(
        self,
        space: SearchSpace,
        scale: ObjectiveScale,
        costs: CostFunction,
        **options: Any,
    ) -> None:
        super().__init__(space, scale, costs, **options)
        self.sweep = lora_sweep_space(space.shape, space.training.default)

    def propose(self, n: int) -> list[Proposal]:
        """Return the next ``n`` points of the sweep that are not known."""
        known = self.known_keys
        proposals: list[Proposal] = []
        for i in range(n):
            configuration = next_sobol(
                self.sweep, len(self.states) + i, known, seed=self.seed, allows=self.allows
            )
            if configuration is None:
                break
            known.add(configuration.key)
            proposals.append(self.proposal(configuration, "lora-sweep"))
        return proposals
