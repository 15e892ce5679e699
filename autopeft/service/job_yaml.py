"""Read a job file as YAML: every finding with its line, duplicate keys refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from autopeft.errors import InvalidJobError
from autopeft.service.near_files import near_file

#: A job file is a page of text; what is larger is something else, given by mistake.
MAX_JOB_FILE_BYTES = 1_000_000

#: Levels of mappings and lists; a job needs five.
MAX_DEPTH = 32

KeyPath = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobText:
    """A job file as read.

    Attributes:
        values: The top-level mapping; keys are text at every level.
        lines: Line number, from 1, of each key by its path.
    """

    values: dict[str, Any]
    lines: dict[KeyPath, int]


class JobLoader(yaml.SafeLoader):
    """Safe YAML, where ``1e-3`` is a number and a date is text, as in YAML 1.2."""


JobLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
JobLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_job_file(path: Path) -> JobText:
    """Read the job file at ``path``.

    Raises:
        InvalidJobError: no such file, a folder, not text, not YAML (with line and column),
            empty, no mapping, or a key that occurs twice.
    """
    return parse_job_text(_read_text(path), name=str(path))


def parse_job_text(text: str, *, name: str) -> JobText:
    """Parse the text of a job file; ``name`` says in messages where it came from.

    Raises:
        InvalidJobError: as :func:`read_job_file` does for the content.
    """
    try:
        loader = JobLoader(text)
        root = loader.get_single_node()
        if root is None:
            raise InvalidJobError(
                f"job file {name} is empty, expected a mapping such as `model: builtin:minilm`",
                hint="start from examples/quickstart.yaml",
            )
        if not isinstance(root, yaml.MappingNode):
            raise InvalidJobError(
                f"job file {name} holds {_kind(root)}, expected a mapping such as "
                "`model: builtin:minilm`",
                hint="start from examples/quickstart.yaml",
            )
        lines: dict[KeyPath, int] = {}
        problems = list(_walk(root, (), lines, {}))
        if problems:
            raise InvalidJobError(f"job file {name} cannot be read:", problems=problems)
        return JobText(values=loader.construct_document(root), lines=lines)
    except yaml.YAMLError as error:
        raise InvalidJobError(
            f"job file {name} is not valid YAML: {_yaml_problem(error)}",
            hint="check indentation, colons and quotes there",
        ) from error
    except (ValueError, RecursionError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidJobError(f"job file {name} cannot be read: {what}") from error


def parse_value(text: str) -> Any:
    """Read one YAML value from a command line, e.g. ``3``, ``[accuracy]`` or ``true``.

    Raises:
        ValueError: ``text`` is not YAML; the message says where.
    """
    try:
        return yaml.load(text, Loader=JobLoader)  # noqa: S506  (JobLoader is a SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(_yaml_problem(error)) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _read_text(path: Path) -> str:
    try:
        if path.is_dir():
            raise InvalidJobError(
                f"{path} is a folder, expected a job file",
                hint=f"continue a job with `autopeft resume {path}`, "
                "or name a YAML file to start one",
            )
        if path.stat().st_size > MAX_JOB_FILE_BYTES:
            raise InvalidJobError(
                f"{path} holds {path.stat().st_size} bytes; a job file has at most "
                f"{MAX_JOB_FILE_BYTES}",
                hint="name a job file, such as examples/quickstart.yaml",
            )
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        near = near_file(path, base=Path(), suffixes=(".yaml", ".yml"))
        raise InvalidJobError(
            f"there is no job file {str(path)!r}{near}",
            hint=None if near else "start from examples/quickstart.yaml",
        ) from None
    except OSError as error:
        raise InvalidJobError(
            f"cannot read job file {str(path)!r}: {error.strerror or error}"
        ) from error
    except ValueError as error:
        raise InvalidJobError(
            f"{path} is not a text file in UTF-8, expected a job file in YAML",
            hint="name a job file, such as examples/quickstart.yaml",
        ) from error
    if "\x00" in text:
        raise InvalidJobError(
            f"{path} is a binary file, expected a job file in YAML",
            hint="name a job file, such as examples/quickstart.yaml",
        )
    return text


def _walk(
    node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], seen: dict[int, bool]
) -> Iterator[str]:
    """Note the line of each key; yield what no job file may hold.

    ``seen`` tells of each node walked before (an alias leads there again) whether the walk is
    still inside it.
    """
    if len(path) > MAX_DEPTH:
        yield f"line {node.start_mark.line + 1}: {path[0]} is nested too deeply"
        return
    if id(node) in seen:
        if seen[id(node)]:
            yield f"line {node.start_mark.line + 1}: {'.'.join(path)} refers to itself"
        return
    seen[id(node)] = True
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield from _walk(item, (*path, str(number)), lines, seen)
    elif isinstance(node, yaml.MappingNode):
        yield from _walk_mapping(node, path, lines, seen)
    seen[id(node)] = False


def _walk_mapping(
    node: yaml.MappingNode, path: KeyPath, lines: dict[KeyPath, int], seen: dict[int, bool]
) -> Iterator[str]:
    first: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.tag == "tag:yaml.org,2002:merge":
            continue
        if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
            shown = f" {key.value!r}" if isinstance(key, yaml.ScalarNode) else ""
            yield f"line {line}: the key{shown} is not text; put it in quotes"
            continue
        where = (*path, key.value)
        if key.value in first:
            yield f"line {line}: {'.'.join(where)} occurs twice, first on line {first[key.value]}"
            continue
        first[key.value] = line
        lines[where] = line
        yield from _walk(value, where, lines, seen)


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    text = str(node.value)
    return f"the single value {text[:40]!r}"


def _yaml_problem(error: yaml.YAMLError) -> str:
    """Say what is wrong in one line, with line and column where they are known."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        parts = [part for part in (error.context, error.problem) if part]
        return where + ", ".join(parts)
    if isinstance(error, yaml.reader.ReaderError):
        return f"the character {error.character!r} at position {error.position} is not allowed"
    return " ".join(str(error).split())
