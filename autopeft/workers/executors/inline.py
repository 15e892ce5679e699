"""Segments in the driver's own process, one after the other: for debugging and tests."""

from __future__ import annotations

from collections import deque

from autopeft.errors import WorkerError
from autopeft.records import Segment, SegmentEvent
from autopeft.workers.executors.base import EXECUTORS, Executor
from autopeft.workers.settings import WorkerSettings, WorkersSettings
from autopeft.workers.worker import Worker, WorkerPlan


@EXECUTORS.register("inline")
class InlineExecutor(Executor):
    """Do the work in :meth:`next_event`, in the order of submission.

    The timeout of :meth:`next_event` only matters while nothing is submitted: a segment once
    begun runs to its end. The base model is loaded when the first segment runs.

    Args:
        worker_settings: What a worker needs.
        workers: How many and on what; one segment runs at a time whatever ``num`` says.
        plan: Data and shapes.
    """

    def __init__(
        self, worker_settings: WorkerSettings, workers: WorkersSettings, plan: WorkerPlan
    ) -> None:
        self.num_workers = workers.num
        self._settings = worker_settings
        self._plan = plan
        self._device = "cuda" if workers.gpus > 0 else "cpu"
        self._worker: Worker | None = None
        self._queue: deque[Segment] = deque()
        self._is_closed = False

    def submit(self, segment: Segment) -> None:
        """Queue a segment."""
        if self._is_closed:
            raise WorkerError("the executor is closed")
        self._queue.append(segment)

    def next_event(self, timeout_seconds: float | None = None) -> SegmentEvent | None:
        """Run the oldest queued segment; None where there is none."""
        if not self._queue or self._is_closed:
            return None
        if self._worker is None:
            self._worker = Worker(self._settings, self._plan, device=self._device)
        return self._worker.run(self._queue.popleft())

    def close(self) -> None:
        """Drop the model and whatever is queued."""
        self._is_closed = True
        self._queue.clear()
        self._worker = None
