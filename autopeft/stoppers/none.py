"""Stop nothing."""

from __future__ import annotations

from collections.abc import Sequence

from autopeft.records import TrialState, TrialStatus
from autopeft.stoppers.base import STOPPERS, Action, Decision, Stopper


@STOPPERS.register("none")
class NoStopper(Stopper):
    """Train every trial to the end in one segment."""

    def next_rung(self, step: int) -> int:
        """Return the last step."""
        return self.max_steps

    def decide(self, state: TrialState, others: Sequence[TrialState]) -> Decision:
        """Continue, whatever the score."""
        return Decision(action=Action.CONTINUE, reason="every trial is trained to the end")

    def promote(self, states: Sequence[TrialState]) -> tuple[int, str] | None:
        """Return None where nothing is paused; otherwise resume the first paused trial.

        Nothing is ever paused here, but a job may be resumed under another stopper.
        """
        return resume_first(states, "every trial is trained to the end")


def resume_first(states: Sequence[TrialState], reason: str) -> tuple[int, str] | None:
    """Return the first paused trial and a reason; None where nothing is paused."""
    paused = [s.trial.number for s in states if s.status is TrialStatus.PAUSED]
    return (min(paused), reason) if paused else None
