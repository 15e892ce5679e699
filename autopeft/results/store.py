"""The seam ``Store``: an append-only log, the only source of truth beside checkpoints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the log.

    Attributes:
        number: Consecutive from 1, without gaps.
        run: Id of the driver run that wrote it.
        kind: What it is, e.g. ``job``, ``run``, ``prepared``, ``proposal``, ``segment``,
            ``measurement``, ``failure``, ``decision``, ``end``.
        data: JSON-able content.
        time: Seconds since the epoch, for people only: no decision reads it.
    """

    number: int
    run: str
    kind: str
    data: Mapping[str, Any]
    time: float


class Store(ABC):
    """Keep the log of one job.

    Contract:
        * ``append`` is atomic and durable when it returns (a power cut keeps it).
        * The log belongs to the newest run: ``begin_run`` makes ``run`` the newest one, and
          an append by an older run raises ``JobFolderError`` and writes nothing.
        * ``unique`` names a fact that can be true once, e.g. ``measurement/3/64``: a second
          append under the same name writes nothing and returns the first entry.
        * ``read`` may run in other processes at any time and sees whole entries only.
    """

    @abstractmethod
    def begin_run(self, run: str) -> None:
        """Take over the log for ``run``."""

    @abstractmethod
    def append(
        self, run: str, kind: str, data: Mapping[str, Any], *, unique: str | None = None
    ) -> Entry:
        """Add one entry and return it."""

    @abstractmethod
    def read(self, after: int = 0) -> Iterator[Entry]:
        """Yield entries numbered above ``after``, in order."""

    def close(self) -> None:
        """Release what is held; idempotent."""
