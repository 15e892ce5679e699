"""The seam ``Stopper``: which trials go on, wait or end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from autopeft.proposers.base import CostFunction
from autopeft.records import TrialState
from autopeft.registry import Registry
from autopeft.results.front import ObjectiveScale
from autopeft.search_spaces.space import SearchSpace


class Action(StrEnum):
    """What becomes of a trial at a rung."""

    CONTINUE = "continue"
    PAUSE = "pause"
    STOP = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """An action and, for people, why."""

    action: Action
    reason: str


class Stopper(ABC):
    """Decide at the end of each segment whether a trial is worth more.

    Contract: a pure function of its arguments and of ``seed``; it is asked only about trials
    that are not complete; a trial still paused when the job ends counts as stopped.

    Args:
        space, scale, costs: As for a proposer.
        max_steps: Steps of a trial trained to the end; the last rung.
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

    @abstractmethod
    def next_rung(self, step: int) -> int:
        """Return the step at which a trial now at ``step`` is measured next.

        Trials are trained in segments from rung to rung; the last is ``max_steps``.
        """

    @abstractmethod
    def decide(self, state: TrialState, others: Sequence[TrialState]) -> Decision:
        """Judge a trial that was just measured, among all ``others`` of the job."""

    @abstractmethod
    def promote(self, states: Sequence[TrialState]) -> tuple[int, str] | None:
        """Return the number of a paused trial that now deserves its next segment, and why.

        None where there is none. Asked whenever a worker is free, before a proposal.
        """


STOPPERS: Registry[Stopper] = Registry("stoppers", package="autopeft.stoppers")
