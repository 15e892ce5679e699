"""A job before validation: plain mappings, changed by flags, with paths expanded.

Nothing here knows types or ranges; what is found wrong is returned, never raised, so that it
can be told together with what validation finds.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from autopeft.errors import InvalidJobError
from autopeft.search_spaces.space_files import is_space_file
from autopeft.service.job_problems import (
    KeyPath,
    Problem,
    holds_any_key,
    key_paths,
    section,
    show,
    unknown_key,
)
from autopeft.service.job_settings import JobSettings, data_from_text, model_from_text
from autopeft.service.job_yaml import parse_value

#: Keys that hold a path, or may hold one; ``~`` and variables are expanded there.
PATH_KEYS: tuple[KeyPath, ...] = (
    ("model", "name"),
    ("data", "name"),
    ("data", "train"),
    ("data", "validation"),
    ("data", "test"),
    ("metric",),
    ("retention", "data"),
    ("space",),
    ("output",),
)


_KNOWN_PATHS = tuple(key_paths(JobSettings))


def parse_override(text: str) -> tuple[str, Any]:
    """Split ``key.path=value`` as given to ``--set``; the value is read as YAML.

    Raises:
        InvalidJobError: no ``=``, no key, or a value that is not YAML.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise InvalidJobError(
            f"--set got {text!r}, expected key.path=value",
            hint="for example --set training.batch_size=16",
        )
    try:
        return key, parse_value(value)
    except ValueError as error:
        raise InvalidJobError(
            f"--set {key}: the value {value!r} is not valid YAML: {error}",
            hint="put text with special characters in quotes: --set 'name=\"a: b\"'",
        ) from error


def apply_changes(raw: dict[str, Any], changes: Mapping[KeyPath, Any]) -> list[Problem]:
    """Write each change into ``raw``; a section given as one string is opened first."""
    problems = []
    for path, value in changes.items():
        if path not in _KNOWN_PATHS and not holds_any_key(JobSettings, path):
            problems.append(unknown_key(path, JobSettings))
            continue
        target = raw
        for depth, key in enumerate(path[:-1]):
            inner = target.get(key)
            if isinstance(inner, str) and depth == 0 and key in ("model", "data"):
                inner = model_from_text(inner) if key == "model" else data_from_text(inner)
            if depth == 0 and key == "space":
                inner = _opened_space(inner)
            if inner is None:
                inner = {}
            if not isinstance(inner, dict):
                problems.append(_cannot_be_set(path, path[: depth + 1], inner))
                break
            target[key] = inner
            target = inner
        else:
            target[path[-1]] = value
    return problems


def _opened_space(space: Any) -> Any:
    """Return a space given as the name of a preset as the mapping that builds on it."""
    name = JobSettings.model_fields["space"].default if space is None else space
    return {"preset": name} if isinstance(name, str) and not is_space_file(name) else space


def _cannot_be_set(path: KeyPath, above: KeyPath, inner: Any) -> Problem:
    """Say that ``path`` lies inside what is no mapping, and what can be done."""
    if above == ("space",) and isinstance(inner, str):
        advice = "set it in that file, or write space as a mapping, such as {preset: default}"
    else:
        advice = f"set all of {'.'.join(above)} at once"
    return Problem(
        path, f"cannot be set: {'.'.join(above)} is {show(inner)}, not a mapping; {advice}"
    )


def drop_empty_sections(raw: dict[str, Any]) -> None:
    """Read a key without a value, such as ``training:`` alone, as absent."""
    for path in _KNOWN_PATHS:
        parent: Any = raw
        for key in path[:-1]:
            parent = parent.get(key) if isinstance(parent, dict) else None
        is_section = len(path) == 1 or section(JobSettings, path) is not None
        if isinstance(parent, dict) and is_section and parent.get(path[-1], 0) is None:
            del parent[path[-1]]


def expand_paths(raw: dict[str, Any]) -> list[Problem]:
    """Expand ``~`` and variables where a path may stand."""
    problems = []
    for key, from_text in (("model", model_from_text), ("data", data_from_text)):
        if key in raw:
            raw[key] = from_text(raw[key])
    for path in PATH_KEYS:
        parent = raw if len(path) == 1 else raw.get(path[0])
        text = parent.get(path[-1]) if isinstance(parent, dict) else None
        if not isinstance(parent, dict) or not isinstance(text, str):
            continue
        expanded, problem = _expand(text)
        if problem is not None:
            problems.append(Problem(path, problem))
        else:
            parent[path[-1]] = expanded
    return problems


def _expand(text: str) -> tuple[str, str | None]:
    """Return the text with variables and ``~`` expanded, and what is wrong with it."""
    expanded = os.path.expandvars(text)
    unset = re.findall(r"\$(\w+|\{[^}]*\})", expanded)
    if unset:
        names = ", ".join(name.strip("{}") for name in dict.fromkeys(unset))
        return text, f"{text!r} needs the environment variable {names}, which is not set"
    is_too_long = len(expanded) > 4095 or any(len(part) > 255 for part in Path(expanded).parts)
    if is_too_long or not expanded.isprintable():
        return text, f"{show(text)} cannot be a path: too long, or with unprintable characters"
    if expanded.startswith("~"):
        try:
            expanded = str(Path(expanded).expanduser())
        except RuntimeError:
            return text, f"{text!r} names the home folder of a user that does not exist"
    return expanded, None


def find_not_finite(value: Any, path: KeyPath = ()) -> list[Problem]:
    """Return a problem for each number that is infinite or NaN, which JSON cannot hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return [Problem(path, f"expected a finite number, got {value}")]
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    return [found for key, inner in items for found in find_not_finite(inner, (*path, str(key)))]
