"""Choose one trial of a job: by name of a wish, or by number.

The knee is where giving up a little score stops buying much economy: the front's point
farthest above the straight line between its two ends, the distance that Das proposed ("On
characterizing the 'knee' of the Pareto curve based on normal-boundary intersection",
Structural Optimization 18, 1999). Scores and logarithms of costs are scaled to [0, 1] by the
front's own ends. Deviation: with several costs their mean counts as one economy, so that
score and costs have an equal say (parameters and memory grow together; as two objectives
they would outvote the score), and the front is judged in that plane.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autopeft.errors import AutopeftError
from autopeft.naming import nearest
from autopeft.records import NUM_TRAINABLE_PARAMETERS, TrialState, TrialStatus
from autopeft.results.front import ObjectiveScale, comparable, pareto_front

WISHES = ("knee", "best", "smallest")


def pick(states: Sequence[TrialState], scale: ObjectiveScale, which: str | int) -> TrialState:
    """Return the trial that ``which`` asks for.

    Args:
        states: All trials of the job (or a front of it).
        scale: How the job compares objectives.
        which: ``knee``; ``best``, the highest score on the front; ``smallest``, the fewest
            trainable parameters on it; or the number of any completed trial.

    Raises:
        AutopeftError: an unknown word, an unknown number, a trial that did not complete, or
            no completed trial at all.
    """
    number = trial_number(which)
    if number is not None:
        return _numbered(states, number)
    if which not in WISHES:
        close = nearest(str(which), WISHES)
        suffix = f"; did you mean {close!r}?" if close else ""
        raise AutopeftError(
            f"cannot pick {which!r}{suffix}", hint="pick knee, best, smallest or a trial's number"
        )
    front = pareto_front(states, scale)
    if not front:
        raise AutopeftError(
            "no trial has completed, so there is no front to pick from",
            hint="let the job go on: autopeft resume DIR",
        )
    if which == "knee":
        return knee(front, scale)
    if which == "best":
        return min(front, key=lambda state: (-state.score, _size(state)))
    return min(front, key=lambda state: (_size(state), -state.score))


def knee(front: Sequence[TrialState], scale: ObjectiveScale) -> TrialState:
    """Return the knee of a front of at least one point; see the module's text.

    Where no point lies above the line, that is the end with the highest score.
    """
    scores = np.array([state.score for state in front])
    names = scale.cost_names or (NUM_TRAINABLE_PARAMETERS,)
    costs = np.array(
        [comparable(name, [getattr(state.costs, name) for state in front]) for name in names]
    ).T
    x = np.mean(np.column_stack([1.0 - _unit(column) for column in costs.T]), axis=1)
    y = _unit(scores)
    best = np.lexsort((-x, -y))[0]
    cheapest = np.lexsort((-y, -x))[0]
    along = np.array([x[cheapest] - x[best], y[cheapest] - y[best]])
    length = float(np.hypot(*along))
    # Signed distance from the line through both ends, positive away from the origin.
    away = (x - x[best]) * -along[1] + (y - y[best]) * along[0]
    distance = np.round(away / length, 12) if length else np.zeros(len(front))
    return front[int(np.lexsort((x * -1, -y, -distance))[0])]


def _unit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale to [0, 1]; values that are all equal become 0."""
    low, high = float(values.min()), float(values.max())
    return np.zeros(len(values)) if high == low else (values - low) / (high - low)


def trial_number(which: str | int) -> int | None:
    """Return the number that a choice is; None where it is a wish."""
    if isinstance(which, int):
        return which
    text = which.strip()
    return int(text) if text.isascii() and text.lstrip("-").isdigit() else None


def _numbered(states: Sequence[TrialState], number: int) -> TrialState:
    known = {state.trial.number: state for state in states}
    completed = sorted(
        number for number, state in known.items() if state.status is TrialStatus.COMPLETED
    )
    listed = ", ".join(map(str, completed[:20])) + (", ..." if len(completed) > 20 else "")
    hint = f"completed trials: {listed}" if completed else "no trial has completed yet"
    state = known.get(number)
    if state is None:
        raise AutopeftError(f"there is no trial {number} in this job", hint=hint)
    if state.status is not TrialStatus.COMPLETED:
        reason = f" ({state.reason})" if state.reason else ""
        raise AutopeftError(
            f"trial {number} is {state.status.value}{reason}; only a completed trial can be picked",
            hint=hint,
        )
    return state


def _size(state: TrialState) -> int:
    return state.trial.costs.num_trainable_parameters
