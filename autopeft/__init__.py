"""AutoPEFT: search for parameter-efficient fine-tuning configurations, with evidence."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autopeft.api import Job as Job
    from autopeft.api import open as open
    from autopeft.api import search as search

__version__ = "0.1.0"
__all__ = ["Job", "__version__", "open", "search"]


def __getattr__(name: str) -> Any:
    """Import the public API on first use, so that ``import autopeft`` stays cheap (PEP 562)."""
    if name in ("Job", "open", "search"):
        return getattr(importlib.import_module("autopeft.api"), name)
    raise AttributeError(f"module 'autopeft' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
