"""Where a space is written down: presets that come with AutoPEFT, and files of the user's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from autopeft.errors import InvalidSpaceError
from autopeft.naming import did_you_mean

_SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceSpec:
    """A space as written, before it meets a model.

    Attributes:
        name: For people: the preset, the file's stem or ``custom``.
        data: What was written, unchecked.
        is_preset: Presets leave out methods a model cannot use; what a user names must be
            usable.
    """

    name: str
    data: Any
    is_preset: bool = False


@cache
def preset_names() -> tuple[str, ...]:
    """Return the names of the spaces that come with AutoPEFT, sorted."""
    names = [entry.name for entry in _presets().iterdir() if entry.name.endswith(".yaml")]
    return tuple(sorted(name.removesuffix(".yaml") for name in names))


def preset_text(name: str) -> str:
    """Return the YAML of a preset: also the example to start one's own space from."""
    return str((_presets() / f"{name}.yaml").read_text(encoding="utf-8"))


def preset_description(name: str) -> str:
    """Return the one line a preset says about itself."""
    return str(_load_yaml(preset_text(name), name)["description"])


def read_spec(spec: str | Path | Mapping[str, Any], *, base: Path | None = None) -> SpaceSpec:
    """Find and read a space: the name of a preset, a file relative to ``base``, or content.

    Raises:
        InvalidSpaceError: there is no such preset or file, or it is no YAML.
    """
    if isinstance(spec, Mapping):
        return SpaceSpec(name="custom", data=spec)
    if isinstance(spec, str) and spec in preset_names():
        return SpaceSpec(name=spec, data=_load_yaml(preset_text(spec), spec), is_preset=True)
    path = Path(base or ".") / Path(spec).expanduser()
    if not path.is_file():
        if Path(spec).suffix.lower() in _SUFFIXES or len(Path(spec).parts) > 1:
            raise InvalidSpaceError(
                f"space file {str(spec)!r} does not exist or is no file",
                hint=f"give a path relative to the job file, or a preset: {_listed()}",
            )
        raise InvalidSpaceError(
            f"unknown space {str(spec)!r}{did_you_mean(str(spec), preset_names())}",
            hint=f"name a preset ({_listed()}) or a YAML file relative to the job file",
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSpaceError(f"space file {str(spec)!r} cannot be read: {error}") from error
    return SpaceSpec(name=path.stem, data=_load_yaml(text, str(spec)))


def _presets() -> Any:
    return resources.files("autopeft.search_spaces") / "presets"


def _listed() -> str:
    return ", ".join(preset_names())


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuse a key given twice, where YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _load_yaml(text: str, name: str) -> Any:
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise InvalidSpaceError(f"space {name!r}{where}: not valid YAML: {problem}") from error
