"""The limits of a search on what is known of a configuration before it is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autopeft.records import Costs
from autopeft.results.front import MEASURED_ENDS, Constraint
from autopeft.results.memory_limit import WORKER_MEMORY

if TYPE_CHECKING:
    from autopeft.search_spaces.configuration import Configuration
    from autopeft.search_spaces.space import SearchSpace
    from autopeft.service.job_spec import JobSpec

#: Configurations of which it is told how many a limit leaves out.
NUM_SAMPLES = 256
#: What a process takes of a GPU besides the tensors: the CUDA context and loaded kernels.
CONTEXT_BYTES = 640 * 2**20


def worker_memory_bytes(spec: JobSpec) -> int | None:
    """Return what a trial may need on a worker of a job; None where nothing is known.

    That is ``workers.memory``, else the worker's part of this machine's first GPU, less what a
    process takes of it besides tensors. The CPU has no limit of its own.
    """
    if spec.workers.memory is not None or not spec.workers.gpus:
        return spec.workers.memory
    import torch

    if not torch.cuda.is_available():
        return None  # the workers are elsewhere, and what they have shows when it runs out
    total = torch.cuda.get_device_properties(0).total_memory
    return int(total * min(1.0, spec.workers.gpus)) - CONTEXT_BYTES


def find_limits(
    space: SearchSpace,
    costs: Callable[[Sequence[Configuration]], list[Costs]],
    constraints: Sequence[Constraint],
    memory_bytes: int | None,
    *,
    seed: int,
) -> list[dict[str, Any]]:
    """Return what each limit leaves out of a space, by a sample of it.

    Args:
        space: Where the search looks.
        costs: Predicts costs.
        constraints: The job's; those on what only training tells are passed over.
        memory_bytes: What the workers have.
        seed: Of the sample.

    Returns:
        For each limit ``name``, ``minimum``, ``maximum``, ``left_out`` (part of the space that
        breaks it) and ``left_out_alone`` (part that breaks no other one).
    """
    known = {name for name in Costs.__dataclass_fields__ if name not in MEASURED_ENDS}
    checked: list[tuple[str, str, Constraint]] = [
        (each.name, each.name, each) for each in constraints if each.name in known
    ]
    if memory_bytes is not None:
        limit = Constraint(name=WORKER_MEMORY, maximum=float(memory_bytes))
        checked.append((WORKER_MEMORY, "train_memory_bytes", limit))
    if not checked:
        return []
    table = costs(list(space.sobol(NUM_SAMPLES, seed=seed)))
    breaks: NDArray[np.bool_] = np.array(
        [[not limit.allows(getattr(row, cost)) for row in table] for _, cost, limit in checked]
    )
    num_broken = breaks.sum(axis=0)
    return [
        {
            "name": name,
            "minimum": limit.minimum,
            "maximum": limit.maximum,
            "left_out": float(broken.mean()),
            "left_out_alone": float((broken & (num_broken == 1)).mean()),
        }
        for (name, _, limit), broken in zip(checked, breaks, strict=True)
    ]
