"""Start the workers of a job."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autopeft.service.job_spec import JobSpec
    from autopeft.service.preparation import Workbench
    from autopeft.workers.executors.base import Executor


def create_executor(spec: JobSpec, checkpoints: Path, workbench: Workbench) -> Executor:
    """Start the workers a job asks for."""
    from autopeft.workers.executors.base import EXECUTORS
    from autopeft.workers.settings import WorkerSettings

    num_cpus = spec.workers.cpus or max(1, (os.cpu_count() or 1) // spec.workers.num)
    settings = WorkerSettings(
        model=spec.model,
        task=workbench.prepared.task,
        metric=workbench.prepared.metric,
        training=spec.training,
        num_outputs=workbench.prepared.num_outputs,
        seed=spec.seed,
        checkpoints=checkpoints.resolve(),
        num_threads=num_cpus,
        memory_bytes=workbench.memory_bytes,
    )
    factory: Any = EXECUTORS.get(spec.workers.executor)
    executor: Executor = factory(settings, spec.workers, workbench.plan)
    return executor
