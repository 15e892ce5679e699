"""How far a build is, for whoever waits for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildProgress:
    """How far a build is.

    Attributes:
        stage: ``waiting``, ``reading``, ``tokenising``, ``training`` or ``evaluating``.
        done: Of ``total``: libraries read, or optimiser steps.
        total: 0 where the stage has no parts.
        seconds_left: Of the stage, None where it cannot be told yet.
    """

    stage: str
    done: int = 0
    total: int = 0
    seconds_left: float | None = None

    def __str__(self) -> str:
        part = f" {self.done} of {self.total}" if self.total else ""
        if self.seconds_left is None:
            return f"{self.stage}{part}"
        minutes, seconds = divmod(round(self.seconds_left), 60)
        return f"{self.stage}{part}, {minutes}:{seconds:02d} left"


OnProgress = Callable[[BuildProgress], None]
