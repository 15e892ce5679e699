"""The seam ``Executor``: where segments run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

from autopeft.records import Segment, SegmentEvent
from autopeft.registry import Registry


class Executor(ABC):
    """Run segments somewhere and report what became of each.

    Contract:
        * ``submit`` returns at once and never blocks on training (``inline`` may do the work
          in ``next_event``). At most ``num_workers`` segments are under way at a time; the
          caller sees to that.
        * Every submitted segment yields exactly one event, a dead worker's included. The
          executor replaces a dead worker itself; it raises ``WorkerError`` only when it
          cannot.
        * Workers keep no state that matters: any worker may run any segment.
        * When ``SegmentDone`` is returned, the checkpoint it names is synced to disk.
        * Driver and executor live in one thread; an executor is a context manager and
          ``close`` is idempotent.
    """

    num_workers: int

    @abstractmethod
    def submit(self, segment: Segment) -> None:
        """Hand a segment to a free worker."""

    @abstractmethod
    def next_event(self, timeout_seconds: float | None = None) -> SegmentEvent | None:
        """Return the next event, waiting for it; None where the time ran out first."""

    @abstractmethod
    def close(self) -> None:
        """Release the workers; segments under way are lost."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


EXECUTORS: Registry[Executor] = Registry("executors", package="autopeft.workers.executors")
