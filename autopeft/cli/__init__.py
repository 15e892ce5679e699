"""The command line: ``autopeft search``, ``resume``, ``show``, ``export`` and their helpers."""

from __future__ import annotations

from autopeft.cli.app import main

__all__ = ["main"]
