"""Segments on Ray core actors, which keep the frozen base and the tokenised data resident."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from typing import Any

from autopeft.errors import AutopeftError, WorkerError
from autopeft.records import FailureKind, Segment, SegmentEvent, SegmentFailed
from autopeft.workers.executors.base import EXECUTORS, Executor
from autopeft.workers.openmp import ENVIRONMENT, share_cores
from autopeft.workers.settings import WorkerSettings, WorkersSettings
from autopeft.workers.worker import Worker, WorkerPlan

#: Consecutive workers that may die before one of them is ready.
MAX_FAILED_STARTS = 3

_MINIMAL_STORE_BYTES = 80 * 2**20  # Ray refuses less than 75 MiB
#: What Ray says of a worker that its memory monitor ended; the text on other deaths speaks of
#: the kernel's OOM killer as one possible cause, which proves nothing.
_MEMORY_KILL_PHRASES = ("node running low on memory", "node_out_of_memory", "memory pressure")
#: What Ray would print of a dead worker, beside the event that reports it.
_SILENCED = r"A worker died or was killed|killed due to memory pressure"


class _RayWorker:
    """The actor. It loads in the background, and tells why it could not when first used."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._failure: Exception | None = None

    def pid(self) -> int:
        return os.getpid()

    def load(self, settings: WorkerSettings, plan: WorkerPlan, device: str) -> bool:
        try:
            self._worker = Worker(settings, plan, device=device)
        except AutopeftError as error:
            self._failure = error
        except Exception as error:
            self._failure = WorkerError(f"a worker could not start: {error!r}")
        return self._failure is None

    def run(self, segment: Segment) -> SegmentEvent:
        if self._failure is not None:
            raise self._failure
        assert self._worker is not None
        return self._worker.run(segment)


@dataclass(slots=True, kw_only=True)
class _Slot:
    """One actor and what it is doing; ``loaded`` and ``pid`` are references to its answers."""

    actor: Any
    pid: Any
    loaded: Any
    segment: Segment | None = None
    result: Any = None


@EXECUTORS.register("ray")
class RayExecutor(Executor):
    """One actor for each worker; a dead one is replaced, and its segment reported.

    Ray is started on this machine, or joined where ``workers.address`` says so; only what was
    started here is shut down. Actors load their model while the caller goes on: what goes
    wrong with it is raised by the first :meth:`next_event`. Rows travel once, as NumPy arrays
    that all actors of a machine share.

    Args:
        worker_settings: What a worker needs; its checkpoint folder must be seen by every
            machine of the cluster.
        workers: Number, CPU cores and (fractions of) GPUs of the workers.
        plan: Data and shapes.

    Raises:
        WorkerError: Ray cannot be started or joined, or has too few CPUs or GPUs.
    """

    def __init__(
        self, worker_settings: WorkerSettings, workers: WorkersSettings, plan: WorkerPlan
    ) -> None:
        self.num_workers = workers.num
        self._settings = worker_settings
        self._workers = workers
        self._num_cpus = workers.cpus or max(1, (os.cpu_count() or 1) // workers.num)
        self._num_failed_starts = 0
        self._slots: list[_Slot] = []
        self._is_closed = False
        self._started_ray = _connect(workers, self._num_cpus, plan)
        try:
            self._check_resources()
            self._plan = _ray().put(plan)
            self._slots = [self._start() for _ in range(workers.num)]
        except BaseException:
            self.close()
            raise

    def submit(self, segment: Segment) -> None:
        """Hand a segment to a free actor."""
        if self._is_closed:
            raise WorkerError("the executor is closed")
        slot = next((slot for slot in self._slots if slot.segment is None), None)
        assert slot is not None, "more segments submitted than there are workers"
        slot.segment = segment
        slot.result = slot.actor.run.remote(segment)

    def next_event(self, timeout_seconds: float | None = None) -> SegmentEvent | None:
        """Return the next event.

        Raises:
            WorkerError: workers die again and again before they are ready.
            ModelError: the base model cannot be loaded.
        """
        busy = [slot for slot in self._slots if slot.segment is not None]
        if not busy:
            return None
        ray = _ray()
        done, _ = ray.wait([slot.result for slot in busy], timeout=timeout_seconds)
        if not done:
            return None
        slot = next(slot for slot in busy if slot.result == done[0])
        segment, result = slot.segment, slot.result
        slot.segment = slot.result = None
        assert segment is not None
        try:
            event: SegmentEvent = ray.get(result)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise cause if isinstance(cause, AutopeftError | AssertionError) else error from None
        except ray.exceptions.RayError as error:
            return self._replace_dead(slot, segment, error)
        self._num_failed_starts = 0
        return event

    def worker_pids(self) -> tuple[int, ...]:
        """Return the process ids of the actors, once they run; they may live elsewhere."""
        return tuple(_ray().get([slot.pid for slot in self._slots]))

    def close(self) -> None:
        """Kill the actors, and Ray where this executor started it."""
        if self._is_closed:
            return
        self._is_closed = True
        ray = _ray()
        if self._started_ray:
            self._slots.clear()
            ray.shutdown()
            return
        while self._slots:
            ray.kill(self._slots.pop().actor, no_restart=True)

    def _start(self) -> _Slot:
        # Ray sets OMP_NUM_THREADS to the CPUs of an actor; the worker sets PyTorch's threads.
        actor_class = _ray().remote(
            num_cpus=self._num_cpus,
            num_gpus=self._workers.gpus,
            max_restarts=0,
            max_task_retries=0,
            # Processes started here inherit it; on a cluster that was joined it must be sent.
            runtime_env={"env_vars": ENVIRONMENT} if self._workers.address else None,
        )(_RayWorker)
        actor = actor_class.remote()
        device = "cuda" if self._workers.gpus > 0 else "cpu"
        return _Slot(
            actor=actor,
            pid=actor.pid.remote(),
            loaded=actor.load.remote(self._settings, self._plan, device),
        )

    def _replace_dead(self, slot: _Slot, segment: Segment, error: Exception) -> SegmentFailed:
        """Put a new actor into the slot of a dead one and say what became of its segment."""
        ray = _ray()
        ray.kill(slot.actor, no_restart=True)
        self._num_failed_starts = 0 if _was_ready(slot) else self._num_failed_starts + 1
        text = str(error)
        if self._num_failed_starts >= MAX_FAILED_STARTS:
            raise WorkerError(
                f"{MAX_FAILED_STARTS} workers in a row died before they were ready: "
                f"{_first_line(text)}",
                hint="try workers.num: 1, or --executor inline to see what happens",
            ) from error
        self._slots[self._slots.index(slot)] = self._start()
        memory = isinstance(error, ray.exceptions.OutOfMemoryError) or any(
            phrase in text.casefold() for phrase in _MEMORY_KILL_PHRASES
        )
        return SegmentFailed(
            segment=segment,
            kind=FailureKind.OUT_OF_MEMORY if memory else FailureKind.WORKER_DIED,
            message=f"the worker's process ended: {_first_line(text)}",
        )

    def _check_resources(self) -> None:
        """Refuse what would wait for ever; a cluster that grows on demand is not asked."""
        available = _ray().cluster_resources()
        gpus = self._workers.gpus * self._workers.num
        if gpus > available.get("GPU", 0.0) + 1e-6:
            raise WorkerError(
                f"{self._workers.num} workers with {self._workers.gpus:g} GPUs each need {gpus:g} "
                f"GPUs, Ray sees {available.get('GPU', 0.0):g}",
                hint="set workers.gpus to a fraction, or to 0 for the CPU",
            )
        cpus = self._num_cpus * self._workers.num
        if cpus > available.get("CPU", 0.0) + 1e-6:
            raise WorkerError(
                f"{self._workers.num} workers with {self._num_cpus} CPU cores each need {cpus} "
                f"cores, the cluster has {available.get('CPU', 0.0):g}",
                hint="lower workers.num or workers.cpus",
            )


def _ray() -> Any:
    """Import Ray at the point of use: no usage reports, no messages beside our events."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Workers do the job's main work: by default Ray gives way to everything else on the machine.
    os.environ.setdefault("RAY_worker_niceness", "0")
    share_cores()
    if "ray" not in sys.modules:
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", _SILENCED)
    import ray
    import ray.exceptions

    return ray


def _connect(workers: WorkersSettings, num_cpus: int, plan: WorkerPlan) -> bool:
    """Start or join Ray; return whether it is ours to shut down."""
    ray = _ray()
    if ray.is_initialized():
        return False
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False, "ignore_reinit_error": True}
    try:
        if workers.address is not None:
            ray.init(address=workers.address, **quiet)
        else:
            ray.init(
                address="local",
                # Workers asked for are workers given, on few cores too: they share them.
                num_cpus=num_cpus * workers.num,
                object_store_memory=max(_MINIMAL_STORE_BYTES, 2 * _num_bytes(plan) + 2**25),
                include_dashboard=False,
                **quiet,
            )
    except (RuntimeError, OSError, ValueError, ray.exceptions.RayError) as error:
        where = f"join the Ray cluster {workers.address}" if workers.address else "start Ray"
        raise WorkerError(
            f"cannot {where}: {_first_line(str(error))}",
            hint="check workers.address, or use --executor inline",
        ) from error
    return True


def _num_bytes(plan: WorkerPlan) -> int:
    return plan.data.train.nbytes + plan.data.validation.nbytes


def _was_ready(slot: _Slot) -> bool:
    ray = _ray()
    try:
        return bool(ray.get(slot.loaded, timeout=0))
    except (ray.exceptions.RayError, TimeoutError):
        return False


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else "no message"
