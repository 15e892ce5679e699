"""The learning rate of each step, and of the short branch that a rung is scored on.

Under a rate that falls over the full steps, what is scored early was never brought to rest. Under
``wsd`` (warm-up, stable, decay: Hu et al. 2024, arXiv 2404.06395) the rate falls over the last
part of the steps alone, as one minus the square root of that part, which Hägele et al. 2024
(arXiv 2405.18392) find to be the best of several shapes. What is scored before the end is a copy
that is trained for a few steps more while the rate falls to nothing, as a trial of that length
would have been. The trial itself goes on from where it stood.
"""

from __future__ import annotations

import math

from autopeft.workers.settings import TrainingSettings

#: Steps of a branch at least, where the trial has as many left.
LEAST_BRANCH_STEPS = 2


def learning_rate_factor(step: int, settings: TrainingSettings) -> float:
    """Return the learning rate of a step as a fraction of the peak, in (0, 1].

    Linear warm-up over the first ``warmup_fraction`` of the trial's full steps, then constant,
    or falling to 0 just after the last step: in a line, along half a cosine (equation 5 of
    arXiv 1608.03983, without restarts), or, for ``wsd``, over the last ``decay_fraction``, as
    ``1 - sqrt``, its first step being below the peak already.

    Args:
        step: Optimiser steps already done, in ``[0, settings.steps)``.
        settings: Schedule and full number of steps.
    """
    num_warmup = math.ceil(settings.warmup_fraction * settings.steps)
    if step < num_warmup:
        return (step + 1) / (num_warmup + 1)
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule == "wsd":
        wanted = math.ceil(settings.decay_fraction * settings.steps)
        num_decay = min(wanted, settings.steps - num_warmup)
        return _fallen(step - (settings.steps - num_decay), num_decay)
    progress = (step - num_warmup) / max(1, settings.steps - num_warmup)
    if settings.schedule == "linear":
        return 1.0 - progress
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def num_branch_steps(step: int, settings: TrainingSettings) -> int:
    """Return the steps of the branch that is scored at a step; 0 where the trial itself is.

    Args:
        step: Optimiser steps already done, at least 1.
        settings: Schedule and full number of steps, past which no branch goes.
    """
    if settings.schedule != "wsd":
        return 0
    wanted = max(LEAST_BRANCH_STEPS, math.ceil(settings.branch_fraction * step))
    return min(wanted, settings.steps - step)


def branch_factor(step: int, settings: TrainingSettings, *, start: int) -> float:
    """Return the learning rate of a branch's step as a fraction of the peak, in (0, 1).

    It falls from what the trial's next step would have had.

    Args:
        step: Optimiser steps already done, those of the trial and those of the branch.
        settings: Schedule and full number of steps.
        start: Of the steps done, the trial's.
    """
    falling = _fallen(step - start, num_branch_steps(start, settings))
    return learning_rate_factor(start, settings) * falling


def _fallen(step: int, num_steps: int) -> float:
    """Return the rate after so many steps of a fall; a negative number comes before it."""
    return 1.0 - math.sqrt((step + 1) / (num_steps + 1)) if step >= 0 else 1.0
