"""Ask a job for the best trials within limits: ``train_memory_bytes<=24GiB``, ``params<2M``.

A query leaves out trials and asks for the front of the others. That front is computed anew: what
only trials outside the limits dominate is on it. Limits of the job itself stay in force. A value
that is not known keeps no limit.

Memory is what a trial needs as far as is known: the measured peak, else the prediction times the
factor that the job's measured trials give (:mod:`autopeft.results.calibration`). Which trials
dominate which is decided, as everywhere, by the objectives, so by predicted memory.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autopeft.errors import AutopeftError
from autopeft.naming import or_nearest
from autopeft.records import (
    ADAPTER_FILE_BYTES,
    COST_NAMES,
    COSTS_IN_BYTES,
    INFERENCE_EXTRA_FLOPS,
    NUM_ADAPTER_PARAMETERS,
    NUM_TRAINABLE_PARAMETERS,
    TRAIN_MEMORY_BYTES,
    TRAIN_SECONDS,
    TrialState,
    TrialStatus,
)
from autopeft.results.calibration import (
    Calibration,
    calibration_of,
    expected_bytes,
    memory_source,
)
from autopeft.results.front import ObjectiveScale, number_text, pareto_front
from autopeft.results.job_log import JobLog
from autopeft.results.report import bytes_text, count_text
from autopeft.results.selection import pick, trial_number
from autopeft.sizes import parse_bytes, parse_count

RELATIONS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
#: Other names for what has one already, those of the table's columns among them.
SHORT_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("memory", "mem", "train_memory", "training_memory", "peak_memory",
                     "memory_bytes", "vram", "measured"), TRAIN_MEMORY_BYTES),
    **dict.fromkeys(("parameters", "params", "trainable_parameters", "num_parameters",
                     "trainable_params", "size"), NUM_TRAINABLE_PARAMETERS),
    **dict.fromkeys(("adapter", "adapter_parameters", "adapter_params"), NUM_ADAPTER_PARAMETERS),
    **dict.fromkeys(("file", "file_bytes", "file_size", "adapter_file"), ADAPTER_FILE_BYTES),
    **dict.fromkeys(("flops", "extra_flops"), INFERENCE_EXTRA_FLOPS),
    **dict.fromkeys(("seconds", "time", "training_time"), TRAIN_SECONDS),
}  # fmt: skip
COUNTS = (NUM_TRAINABLE_PARAMETERS, NUM_ADAPTER_PARAMETERS, INFERENCE_EXTRA_FLOPS)

#: A name, a relation and a bound; signs that are not a relation are taken too, to say so.
_CONDITION = re.compile(r"\s*([\w.\- ]*?)\s*([<>=!~]+)\s*(.*?)\s*", re.DOTALL)
_SEPARATOR = re.compile(r"\s+and\s+|&&", re.IGNORECASE)
_HINT = "write it in quotes, such as 'train_memory_bytes<=24GiB' or 'accuracy>=0.8'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A limit that a query sets.

    Attributes:
        name: A cost or a metric.
        relation: One of ``RELATIONS``.
        bound: What is compared with, in natural units.
    """

    name: str
    relation: str
    bound: float

    def keeps(self, value: float | None) -> bool:
        """Tell whether a value keeps the limit; one that is not known does not."""
        known = value is not None and not math.isnan(value)
        return known and RELATIONS[self.relation](float(value or 0.0), self.bound)

    def miss(self, value: float | None) -> float:
        """Return by which part of the bound a value misses it; 0 where it does not."""
        if self.keeps(value):
            return 0.0
        if value is None or not math.isfinite(value):
            return math.inf
        return abs(value - self.bound) / (abs(self.bound) or 1.0)

    def __str__(self) -> str:
        """Write it for people: ``train_memory_bytes <= 24.0 GiB``."""
        return f"{self.name} {self.relation} {value_text(self.name, self.bound)}"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What keeps a query's limits.

    Attributes:
        conditions: The limits.
        allowed: Completed trials that keep them and the job's own, in order of proposal; at
            least one.
        front: Those of them that none of them dominates, best score first.
        num_completed: All completed trials.
        scale: How the job compares objectives.
        calibration: What measured memory says of predictions.
    """

    conditions: tuple[Condition, ...]
    allowed: tuple[TrialState, ...]
    front: tuple[TrialState, ...]
    num_completed: int
    scale: ObjectiveScale
    calibration: Calibration

    @property
    def best(self) -> TrialState:
        """The highest score; of equal ones that with the fewest parameters."""
        return pick(self.allowed, self.scale, "best")

    @property
    def text(self) -> str:
        """The limits, for people."""
        return conditions_text(self.conditions)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return {
            "conditions": [condition.to_json() for condition in self.conditions],
            "num_keeping": len(self.allowed),
            "num_completed": self.num_completed,
            "trials": [state.trial.number for state in self.allowed],
            "best": self.best.trial.number,
        }


def parse_conditions(where: str | Sequence[str], names: Iterable[str]) -> tuple[Condition, ...]:
    """Read conditions such as ``train_memory_bytes<=24GiB`` or ``accuracy>=0.8``.

    Bytes take the units KiB, MiB, GiB, KB, MB and GB, counts k, M and G; ``and`` joins several.

    Args:
        where: One or more texts.
        names: The costs and metrics that can be asked for.

    Raises:
        AutopeftError: a text is no condition, or its name or its number is unknown.
    """
    texts = [where] if isinstance(where, str) else list(where)
    names = list(names)
    return tuple(_parse(part, names) for text in texts for part in _SEPARATOR.split(text))


def ask(log: JobLog, where: str | Sequence[str]) -> Answer:
    """Return the front of the completed trials that keep all conditions.

    Raises:
        AutopeftError: a condition cannot be read, or no completed trial keeps them all; then it
            names the one that misses them by least.
    """
    scale = log.scale
    completed = [state for state in log.trials if state.status is TrialStatus.COMPLETED]
    if scale is None or not completed:
        raise AutopeftError(
            "no trial has completed yet, so there is nothing to ask for",
            hint="let the job go on: autopeft resume DIR",
        )
    calibration = calibration_of(log.trials)
    conditions = parse_conditions(where, _names(completed, scale))
    candidates = [state for state in completed if not scale.broken_constraints(state)]
    if not candidates:
        limits = " and ".join(map(str, scale.constraints))
        raise AutopeftError(
            f"no completed trial keeps the job's own constraints: {limits}",
            hint="`autopeft show DIR` without --where tells of each what it breaks",
        )
    allowed = [s for s in candidates if all(c.keeps(_value(s, c, calibration)) for c in conditions)]
    if not allowed:
        raise _nothing(candidates, conditions, calibration)
    return Answer(
        conditions=conditions,
        allowed=tuple(allowed),
        front=tuple(pareto_front(allowed, scale)),
        num_completed=len(completed),
        scale=scale,
        calibration=calibration,
    )


def pick_where(log: JobLog, which: str | int, where: str | Sequence[str] = ()) -> TrialState:
    """Return the trial that ``which`` asks for, among those that keep all conditions.

    Args:
        log: The job.
        which: ``knee``, ``best`` or ``smallest`` of the front under the query, or the number of a
            completed trial.
        where: The conditions; without any it is :func:`~autopeft.results.selection.pick`.

    Raises:
        AutopeftError: nothing keeps the conditions, or not the trial of that number; or see
            :func:`~autopeft.results.selection.pick`.
    """
    assert log.scale is not None
    if not where:
        return pick(log.trials, log.scale, which)
    answer = ask(log, where)
    if trial_number(which) is None:
        return pick(answer.allowed, log.scale, which)
    state = pick(log.trials, log.scale, which)
    if state not in answer.allowed:
        missed = misses(state, answer.conditions, answer.calibration)
        broken = log.scale.broken_constraints(state)
        raise AutopeftError(
            f"trial {state.trial.number} does not keep {answer.text}: "
            f"{'; '.join([*missed, *broken])}",
            hint=f"trials that do: {_numbers(answer.allowed)}",
        )
    return state


def misses(
    state: TrialState, conditions: Iterable[Condition], calibration: Calibration
) -> list[str]:
    """Say which conditions a trial does not keep, with its value and by how much, for people."""
    told = []
    for condition in conditions:
        value = _value(state, condition, calibration)
        if condition.keeps(value):
            continue
        if value is None or math.isnan(value):
            told.append(f"{condition.name} was not measured")
            continue
        way = "too much" if condition.relation[0] == "<" else "too little"
        by = value_text(condition.name, abs(value - condition.bound))
        how = ""
        if condition.name == TRAIN_MEMORY_BYTES:
            how = f" ({memory_source(state, calibration)})"
        shown = value_text(condition.name, value)
        told.append(
            f"{condition.name} is exactly {shown}{how}"
            if value == condition.bound
            else f"{condition.name} is {shown}{how}, {by} {way}"
        )
    return told


def memory_text(answer: Answer) -> str | None:
    """Say which memory a query on memory looked at; None where it asks for none."""
    if all(condition.name != TRAIN_MEMORY_BYTES for condition in answer.conditions):
        return None
    sources = [memory_source(state, answer.calibration) for state in answer.allowed]
    measured = sources.count("measured")
    rest = len(sources) - measured
    factor = answer.calibration.factor
    predicted = (
        f"the prediction times {factor:.3f}, as measured trials ask for"
        if answer.calibration.num_trials
        else "the prediction"
    )
    if not rest:
        return "Memory counted: the measured peak of each trial."
    if not measured:
        return f"Memory counted: {predicted}; none of these trials was measured."
    return f"Memory counted: the measured peak of {measured}, of the other {rest} {predicted}."


def value_text(name: str, value: float) -> str:
    """Write a cost or a metric for people, in a unit that a query takes too."""
    if name in COSTS_IN_BYTES:
        return bytes_text(value)
    if name in COUNTS:
        return count_text(value)
    return f"{value:g} s" if name == TRAIN_SECONDS else number_text(value)


def conditions_text(conditions: Iterable[Condition]) -> str:
    """Join conditions, for people."""
    return " and ".join(map(str, conditions))


def _parse(text: str, names: Sequence[str]) -> Condition:
    match = _CONDITION.fullmatch(text)
    if match is None or not match[1]:
        raise AutopeftError(
            f"--where: expected a name, a relation and a number, got {text!r}", hint=_HINT
        )
    given, relation, number = match.groups()
    if relation not in RELATIONS:
        raise AutopeftError(
            f"--where: unknown relation {relation!r} in {text!r}; expected <=, >=, < or >",
            hint=_HINT,
        )
    name = _full_name(given, names)
    if not number:
        raise AutopeftError(f"--where: {text!r} names no number", hint=_HINT)
    return Condition(name=name, relation=relation, bound=_bound(name, number))


def _full_name(given: str, names: Sequence[str]) -> str:
    """Return the cost or metric that is meant."""
    folded = re.sub(r"[\s\-]+", "_", given.strip())
    for candidate in (given, folded, folded.casefold(), SHORT_NAMES.get(folded.casefold())):
        if candidate in names:
            return str(candidate)
    meant = SHORT_NAMES.get(folded.casefold(), folded)
    if meant in COST_NAMES:
        raise AutopeftError(
            f"--where: no trial of this job has {meant}", hint=f"known are {', '.join(names)}"
        )
    raise AutopeftError(
        f"--where: {given!r} is neither a cost nor a metric of this job"
        f"{or_nearest(folded, [*names, *SHORT_NAMES])}",
        hint=f"known are {', '.join(names)}",
    )


def _bound(name: str, text: str) -> float:
    # As messages write large numbers, and as Python does.
    plain = re.sub(r"(?<=\d)[,_](?=\d{3}(?!\d))", "", text)
    if re.fullmatch(r"0+(\.0*)?", plain):
        return 0.0
    try:
        if name in COSTS_IN_BYTES:
            return float(parse_bytes(plain))
        if name in COUNTS:
            return parse_count(plain)
        found = float(plain.casefold().removesuffix("s") if name == TRAIN_SECONDS else plain)
    except ValueError as error:
        expected = f"expected a number such as 0.25, got {text!r}"
        is_size = name in (*COSTS_IN_BYTES, *COUNTS)
        raise AutopeftError(
            f"--where: {name}: {error if is_size else expected}", hint=_HINT
        ) from error
    if not math.isfinite(found):
        raise AutopeftError(f"--where: {name}: expected a finite number, got {text!r}", hint=_HINT)
    return found


def _names(states: Sequence[TrialState], scale: ObjectiveScale) -> list[str]:
    """Return what trials can be asked for: the metric first, then costs, then other metrics."""
    measured = {name for state in states for name in _metrics(state)}
    costs = [n for n in COST_NAMES if any(getattr(s.costs, n) is not None for s in states)]
    return list(dict.fromkeys([scale.metric, *costs, *sorted(measured)]))


def _metrics(state: TrialState) -> Mapping[str, float]:
    return state.curve[-1].metrics if state.curve else {}


def _value(state: TrialState, condition: Condition, calibration: Calibration) -> float | None:
    name = condition.name
    if name == TRAIN_MEMORY_BYTES:
        return expected_bytes(state, calibration)
    value = getattr(state.costs, name) if name in COST_NAMES else _metrics(state).get(name)
    return None if value is None else float(value)


def _nothing(
    states: Sequence[TrialState], conditions: Sequence[Condition], calibration: Calibration
) -> AutopeftError:
    """Say that nothing keeps the conditions, and which trial misses them by least."""

    def worst(state: TrialState) -> float:
        return max(c.miss(_value(state, c, calibration)) for c in conditions)

    nearest = min(states, key=lambda state: (worst(state), -state.score, state.trial.number))
    return AutopeftError(
        f"no completed trial keeps {conditions_text(conditions)}; the nearest of {len(states)} is "
        f"trial {nearest.trial.number}: "
        f"{'; '.join(misses(nearest, conditions, calibration))}",
        hint="ask for less, or search for such trials: constraints in the job file",
    )


def _numbers(states: Sequence[TrialState]) -> str:
    numbers = [str(state.trial.number) for state in states]
    return ", ".join([*numbers[:20], *(["..."] if len(numbers) > 20 else [])])
