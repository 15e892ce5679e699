"""Read the ``adapter_config.json`` of any Hugging Face adapter as one of the modules here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS


def module_of_config(shape: ModelShape, config: Mapping[str, Any]) -> Module | None:
    """Return the module that an adapter's config means on a model.

    None where no method says that the config is its own, or more than one: then PEFT alone
    knows what it builds.
    """
    found = []
    for name in METHODS.names():
        try:
            found.append(METHODS.get(name).from_peft_config(shape, config))
        except (ValueError, KeyError):
            continue
    return found[0] if len(found) == 1 else None
