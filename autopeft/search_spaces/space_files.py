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
from autopeft.naming import or_nearest
from autopeft.search_spaces.included import read_included

_SUFFIXES = (".yaml", ".yml", ".json")
#: Among methods: every one that is not named.
ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceSpec:
    """A space as written, before it meets a model.

    Attributes:
        name: For people: the preset, the file's stem or ``custom``.
        data: What was written, unchecked.
        is_preset: Presets leave out methods a model cannot use; what a user names must be
            usable.
        named: Methods that a user named beside a preset.
    """

    name: str
    data: Any
    is_preset: bool = False
    named: frozenset[str] = frozenset()


@cache
def preset_names() -> tuple[str, ...]:
    """Return the names of the spaces that come with AutoPEFT, sorted."""
    names = [entry.name for entry in _presets().iterdir() if entry.name.endswith(".yaml")]
    return tuple(sorted(name.removesuffix(".yaml") for name in names))


def is_space_file(text: str) -> bool:
    """Return whether ``text`` is the name of a file, not of a preset."""
    return Path(text).suffix.lower() in _SUFFIXES or len(Path(text).parts) > 1


def preset_text(name: str) -> str:
    """Return the YAML of a preset: also the example to start one's own space from."""
    return str((_presets() / f"{name}.yaml").read_text(encoding="utf-8"))


def preset_description(name: str) -> str:
    """Return the one line a preset says about itself."""
    return str(_load_yaml(preset_text(name), name)["description"])


def read_spec(spec: str | Path | Mapping[str, Any], *, base: Path | None = None) -> SpaceSpec:
    """Find and read a space: the name of a preset, a file relative to ``base``, or content.

    Content may build on a preset (``preset: NAME``) and name files of published adapters
    (``include``); both are taken in.

    Raises:
        InvalidSpaceError: there is no such preset or file, or it is no YAML.
    """
    if isinstance(spec, str) and spec in preset_names():
        return SpaceSpec(name=spec, data=_load_yaml(preset_text(spec), spec), is_preset=True)
    name = "custom" if isinstance(spec, Mapping) else Path(spec).stem
    return _on_preset(name, self_contained(spec, base=base))


def self_contained(spec: str | Path | Mapping[str, Any], *, base: Path | None = None) -> Any:
    """Return the content of a space that is no preset's name, with the files it names inside.

    Args:
        spec: A YAML file relative to ``base``, or content.
        base: Folder that paths in ``spec`` start from; in a file they start from its folder.

    Raises:
        InvalidSpaceError: a file does not exist or cannot be read.
    """
    data: Any = spec
    if not isinstance(spec, Mapping):
        path = _find(spec, base)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidSpaceError(f"space file {str(spec)!r} cannot be read: {error}") from error
        data, base = _load_yaml(text, str(spec)), path.parent
    if isinstance(data, Mapping) and data.get("include") is not None:
        data = {**data, "include": read_included(data["include"], base=base)}
    return data


def _find(spec: str | Path, base: Path | None) -> Path:
    path = Path(base or ".") / Path(spec).expanduser()
    if not path.is_file():
        if is_space_file(str(spec)):
            raise InvalidSpaceError(
                f"space file {str(spec)!r} does not exist or is no file",
                hint=f"give a path relative to the job file, or a preset: {_listed()}",
            )
        raise InvalidSpaceError(
            f"unknown space {str(spec)!r}{or_nearest(str(spec), preset_names())}",
            hint=f"name a preset ({_listed()}) or a YAML file relative to the job file",
        )
    return path


def _on_preset(name: str, data: Any) -> SpaceSpec:
    """Take in the preset that the content builds on."""
    if not isinstance(data, Mapping) or "preset" not in data:
        return SpaceSpec(name=name, data=data)
    content = dict(data)
    preset = content.pop("preset")
    if preset not in preset_names():
        raise InvalidSpaceError(
            f"unknown preset {preset!r}{or_nearest(str(preset), preset_names())}",
            hint=f"name one of {_listed()}",
        )
    below = _load_yaml(preset_text(preset), preset)
    named = _by_name(content.pop("methods", None))
    methods = {**_by_name(below["methods"]), **named}
    return SpaceSpec(
        name=preset if name == "custom" else name,
        data={**below, **content, "methods": methods},
        is_preset=True,
        named=frozenset(named) - {ALL},
    )


def _by_name(methods: Any) -> dict[str, Any]:
    """Return methods as a mapping; what is none of the forms allowed is no method's name."""
    if isinstance(methods, Mapping):
        return {str(name): settings for name, settings in methods.items()}
    listed = methods if isinstance(methods, list) else [methods]
    return {str(name): None for name in listed if name is not None}


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
