"""Turn what pydantic finds in a job into one line each, for people."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError

from autopeft.naming import did_you_mean, nearest

KeyPath = tuple[str, ...]

#: Keys people bring along from other tools, and where their meaning lives here.
FOREIGN_KEYS: Mapping[str, str] = {
    "learning_rate": "the learning rate is searched; narrow it in the search space",
    "lr": "the learning rate is searched; narrow it in the search space",
    "rank": "the rank is searched; narrow it in the search space",
    "num_epochs": "a trial's length is training.epochs, or training.steps in optimiser steps",
    "num_train_epochs": "a trial's length is training.epochs, or training.steps in optimiser steps",
    "max_steps": "a trial's length is training.steps, in optimiser steps, or training.epochs",
    "metric": "the metric is the first of objectives, e.g. objectives: [accuracy]",
    "dataset": "it is called data here",
    "output_dir": "it is called output here",
    "trust_remote_code": "write model: {name: ..., trust_remote_code: true}",
}

EXPECTED: Mapping[str, str] = {
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "string_type": "expected text",
    "bool_type": "expected true or false",
    "model_type": "expected a mapping",
    "dict_type": "expected a mapping",
    "tuple_type": "expected a list",
    "list_type": "expected a list",
    "greater_than_equal": "expected at least {ge:g}",
    "greater_than": "expected more than {gt:g}",
    "less_than_equal": "expected at most {le:g}",
    "less_than": "expected less than {lt:g}",
    "literal_error": "expected {expected}",
    "finite_number": "expected a finite number",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding.

    Attributes:
        path: The key it is about.
        text: What was received and what was expected, one line.
    """

    path: KeyPath
    text: str


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """Return one problem for each finding of pydantic."""
    return [_problem(cast(Mapping[str, Any], found), model) for found in error.errors()]


def unknown_key(path: KeyPath, model: type[BaseModel]) -> Problem:
    """Say that ``path`` is no key of a job, and which one may be meant."""
    return Problem(path, f"unknown key{_suggestion(path, model)}")


def key_paths(model: type[BaseModel], prefix: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield the path of every key a job can have, sections before what they hold."""
    for name, field in model.model_fields.items():
        yield (*prefix, name)
        if (inner := _section_of(field.annotation)) is not None:
            yield from key_paths(inner, (*prefix, name))


def section(model: type[BaseModel], path: KeyPath) -> type[BaseModel] | None:
    """Return the model of the section at ``path``; None where it is no section.

    Every key of a mapping from names to sections, such as ``constraints``, is one.
    """
    return _section_of(_annotation_at(model, path))


def holds_any_key(model: type[BaseModel], path: KeyPath) -> bool:
    """Return whether ``path`` lies inside a mapping that takes keys of any name."""
    above = (path[:depth] for depth in range(1, len(path)))
    return any(_values_of(_annotation_at(model, each)) is not None for each in above)


def show(value: Any) -> str:
    """Write a received value on one short line, as it stands in YAML."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, str):
        text = value if len(value) <= 60 else value[:57] + "..."
        return repr(text)
    short = reprlib.Repr()
    short.maxlist = short.maxtuple = 4
    return short.repr(value)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the model of a section, also of one that may be left out; None for all else."""
    choices = [choice for choice in get_args(annotation) if choice is not type(None)]
    if isinstance(annotation, UnionType) and len(choices) == 1:
        annotation = choices[0]
    is_section = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation if is_section else None


def _annotation_at(model: type[BaseModel], path: KeyPath) -> Any:
    """Return the type of what stands at ``path``; None where nothing can."""
    found: Any = model
    for name in path:
        inner, values = _section_of(found), _values_of(found)
        if inner is not None and name in inner.model_fields:
            found = inner.model_fields[name].annotation
        else:
            found = values
    return found


def _values_of(annotation: Any) -> Any:
    """Return what a mapping from names of any kind holds; None for all else."""
    choices = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    return next((get_args(choice)[1] for choice in choices if get_origin(choice) is dict), None)


def _problem(found: Mapping[str, Any], model: type[BaseModel]) -> Problem:
    path = tuple(str(part) for part in found["loc"])
    kind, value, context = found["type"], found["input"], found.get("ctx", {})
    if kind == "extra_forbidden":
        return unknown_key(path, model)
    if kind == "missing":
        parent = section(model, path[:-1])
        field = parent.model_fields[path[-1]] if parent is not None else None
        about = field.description if field is not None and field.description else "it is required"
        return Problem(path, f"missing: {about}")
    if kind == "value_error":
        return Problem(path, str(context["error"]))
    expected = EXPECTED.get(kind)
    text = (
        expected.format(**context)
        if expected is not None
        else found["msg"].replace("Input should be", "expected")
    )
    return Problem(path, f"{text}, got {show(value)}{_searched(path, value)}")


def _searched(path: KeyPath, value: Any) -> str:
    """Say where a list of values belongs that stands in the place of a training setting."""
    if path[0] != "training" or not isinstance(value, list):
        return ""
    from autopeft.search_spaces.training_domain import SEARCHABLE

    name = path[-1]
    if name not in SEARCHABLE:
        return f"; {name} cannot be searched, of training settings {_listed(SEARCHABLE)} can"
    values = ", ".join(map(_in_yaml, value))
    return f"; to search it, write space: {{preset: default, training: {{{name}: [{values}]}}}}"


def _listed(names: Iterable[str]) -> str:
    *others, last = sorted(names)
    return f"{', '.join(others)} and {last}"


def _in_yaml(value: Any) -> str:
    return value if isinstance(value, str) else show(value)


def _suggestion(path: KeyPath, model: type[BaseModel]) -> str:
    leaf = path[-1]
    known = list(key_paths(model))
    parent = section(model, path[:-1])
    siblings = [] if parent is None else list(parent.model_fields)
    elsewhere = sorted((p for p in known if p[:-1] != path[:-1]), key=len)
    exact = [p for p in elsewhere if p[-1] == leaf.casefold().replace("-", "_")]
    close = nearest(leaf, siblings)
    if leaf in FOREIGN_KEYS and close is None:
        return f"; {FOREIGN_KEYS[leaf]}"
    if close is not None and not exact:
        return f"; did you mean {_dotted((*path[:-1], close))!r}?"
    if exact:
        return f"; did you mean {_dotted(exact[0])!r}?"
    far = nearest(leaf, [p[-1] for p in elsewhere])
    if far is not None:
        return f"; did you mean {_dotted(next(p for p in elsewhere if p[-1] == far))!r}?"
    return did_you_mean(leaf, siblings)


def _dotted(path: Sequence[str]) -> str:
    return ".".join(path)
