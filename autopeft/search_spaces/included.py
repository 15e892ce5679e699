"""Published adapters taken into a space as they are: ``include: [path/to/adapter_config.json]``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autopeft.errors import InvalidSpaceError
from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.domains import domain_of
from autopeft.search_spaces.method import METHODS, Method, get_method

#: The file that PEFT writes beside an adapter's weights.
CONFIG_NAME = "adapter_config.json"


def read_included(given: Any, *, base: Path | None = None) -> list[dict[str, Any]]:
    """Return the content of the files that ``include`` names, each as ``name`` and ``config``.

    Args:
        given: A path or a list of paths, to ``adapter_config.json`` or the folder it is in;
            or what this function returned.
        base: Folder that relative paths start from.

    Raises:
        InvalidSpaceError: a file cannot be read or is no PEFT config.
    """
    found: list[dict[str, Any]] = []
    for item in given if isinstance(given, list) else [given]:
        if isinstance(item, Mapping) and {"name", "config"} == item.keys():
            found.append(dict(item))
            continue
        if not isinstance(item, str | Path):
            raise InvalidSpaceError(f"include: expected paths of {CONFIG_NAME}, got {item!r}")
        path = Path(base or ".") / Path(item).expanduser()
        path = path / CONFIG_NAME if path.is_dir() else path
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidSpaceError(
                f"include: {str(item)!r} cannot be read: {error}",
                hint=f"give the path of a published adapter's {CONFIG_NAME}",
            ) from None
        if not isinstance(config, dict) or "peft_type" not in config:
            raise InvalidSpaceError(f"include: {str(item)!r} holds no peft_type")
        name = path.parent.name if path.name == CONFIG_NAME else path.stem
        found.append({"name": name or "adapter", "config": config})
    return found


def module_of(config: Mapping[str, Any], shape: ModelShape) -> Module:
    """Return the module that a PEFT config means on a model.

    Raises:
        ValueError: no method here can be read from it, and why.
    """
    wanted = str(config["peft_type"])
    reasons: list[str] = []
    own = ""
    for name in sorted(METHODS.names(), key=lambda name: (name.upper() != wanted, name)):
        method = get_method(name)
        reason = method.unavailable(shape)
        if reason is not None:
            if name.upper() == wanted:
                reasons.append(f"{name}: {reason}")
            continue
        if _peft_type(method, shape) != wanted:
            continue
        try:
            return method.from_peft_config(shape, config)
        except ValueError as error:
            reasons.append(str(error))
            if name.upper() == wanted:
                # What the method of that name says tells the most; relatives only repeat it.
                own = str(error)
    raise ValueError(
        own or "; ".join(dict.fromkeys(reasons)) or f"no method here is PEFT's {wanted}"
    )


def _peft_type(method: Method, shape: ModelShape) -> str:
    settings = {each.name: domain_of(each).default for each in method.dimensions(shape)}
    module = Module.of(method.name, tuple(range(shape.num_layers)), **settings)
    return str(method.peft_config(shape, module)["peft_type"])
