"""What a user may write about the training settings of a space: ``training: {NAME: values}``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

from autopeft.naming import did_you_mean
from autopeft.search_spaces.part_reader import shown
from autopeft.search_spaces.training_domain import (
    NO_TRAINING,
    SEARCHABLE,
    JobTraining,
    Scalar,
    TrainingDomain,
)

#: Combinations of training settings at most.
MAX_COMBINATIONS = 4096


def read_training(given: Any, job: JobTraining | None, problems: list[str]) -> TrainingDomain:
    """Return the training settings that a space searches.

    Args:
        given: Values by setting: a list of them, or a single one.
        job: The job's own settings; where None, every value of a known setting is taken.
        problems: Mistakes are added here, each naming the key it stands under.
    """
    names = sorted(SEARCHABLE if job is None else SEARCHABLE.keys() & job.values.keys())
    if not isinstance(given, Mapping) or not given:
        told = shown(given) if given else "nothing"
        problems.append(f"training: expected settings ({', '.join(names)}), got {told}")
        return NO_TRAINING
    before = len(problems)
    listed = {}
    for name, values in given.items():
        if name not in names:
            problems.append(f"training.{name}: cannot be searched{did_you_mean(str(name), names)}")
        elif (found := _values(name, values, problems)) is not None:
            listed[name] = found
    if len(problems) == before and prod(map(len, listed.values())) > MAX_COMBINATIONS:
        problems.append(
            f"training: {prod(map(len, listed.values()))} combinations, expected at most "
            f"{MAX_COMBINATIONS}; list fewer values"
        )
    if len(problems) == before and job is not None:
        _check(listed, job, problems)
    return NO_TRAINING if len(problems) > before else TrainingDomain(listed, job)


def _values(name: str, given: Any, problems: list[str]) -> list[Scalar] | None:
    """Return the values listed for a setting; None after a problem."""
    values = given if isinstance(given, list) else [given]
    for value in values:
        if not isinstance(value, int | float | str):
            problems.append(f"training.{name}: expected a list of values, got {shown(value)}")
            return None
    if not values:
        problems.append(f"training.{name}: expected at least one value, got none")
        return None
    typed = [(type(value), value) for value in values]
    twice = next(
        (value for value, key in zip(values, typed, strict=True) if typed.count(key) > 1), None
    )
    if twice is not None:
        problems.append(f"training.{name}: {shown(twice)} is listed twice")
        return None
    return values


def _check(listed: Mapping[str, Sequence[Scalar]], job: JobTraining, problems: list[str]) -> None:
    """Find values that go with no values of the others."""
    reasons: dict[tuple[str, Any], str | None] = {}
    for values in product(*listed.values()):
        settings = dict(zip(listed, values, strict=True))
        reason = job.why_not(settings)
        for name, value in settings.items():
            key = (name, (type(value), value))
            if key not in reasons or reason is None:
                reasons[key] = reason
    failing = [(name, value) for (name, (_, value)), reason in reasons.items() if reason]
    # A value that is wrong by itself takes the blame for those that meet no other.
    blamed = [(name, value) for name, value in failing if job.why_not({name: value})] or failing[:1]
    for name, value in blamed:
        reason = reasons[name, (type(value), value)]
        problems.append(f"training.{name}: {shown(value)}: {reason}")
