"""Studies on the synthetic landscape, and the curves that trials have there."""

from __future__ import annotations

from typing import Any

from autopeft.integrations.asked import Asked
from autopeft.integrations.study import PeftStudy
from autopeft.stoppers.base import Action, Decision
from tests.proposers.synthetic_job import MAX_STEPS, Landscape, default_landscape


def make_study(landscape: Landscape | None = None, **changes: Any) -> PeftStudy:
    """Return a study that has seen nothing."""
    landscape = landscape or default_landscape()
    given: dict[str, Any] = {
        "proposer": "random",
        "stopper": "halving",
        "max_steps": MAX_STEPS,
        **changes,
    }
    return PeftStudy(landscape.space, landscape.scale(), landscape.costs, **given)


def train(
    study: PeftStudy, landscape: Landscape, asked: Asked, *, every: int = 12, begin: int = 0
) -> Decision | None:
    """Report a trial's curve until it ends or waits; return the last decision."""
    decision = None
    for step in range(begin + every, MAX_STEPS + 1, every):
        score = landscape.score(asked.configuration, step)
        value = score if study.mode == "max" else -score
        decision = study.report(asked.number, step, value, seconds=float(step))
        if decision.action is not Action.CONTINUE:
            break
    return decision


def run(study: PeftStudy, landscape: Landscape, trials: int, **options: Any) -> None:
    """Ask for and train so many trials, one after the other."""
    for _ in range(trials):
        asked = study.ask()
        assert asked is not None
        train(study, landscape, asked, **options)
