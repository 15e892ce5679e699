"""Limits that no configuration of a space can keep, told before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from autopeft.errors import InvalidJobError
from autopeft.records import (
    ADAPTER_FILE_BYTES,
    INFERENCE_EXTRA_FLOPS,
    TRAIN_MEMORY_BYTES,
    ModelShape,
)
from autopeft.results.front import Constraint, number_text
from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.method import get_method, num_trained
from autopeft.search_spaces.space import SearchSpace
from autopeft.search_spaces.training_domain import CHECKPOINTING

if TYPE_CHECKING:
    from autopeft.workers.settings import TrainingSettings

#: Adapters are trained and saved as float32, also over a base of half precision.
BYTES_PER_SAVED_NUMBER = 4
#: Configurations that are counted before neighbours of the best are looked at.
_NUM_SAMPLES = 256
#: Where a descent to the best value begins: the best samples, each of another set of methods.
_NUM_STARTS = 8
#: Neighbours that are looked at in vain before a descent ends.
_MAX_IN_VAIN = 128

#: Smallest bytes a frozen weight takes, by what the job says of it.
_WEIGHT_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "4bit": 0.5, "8bit": 1.0}

#: Returns a cost of each of several configurations.
Cost = Callable[[Sequence[Configuration]], Sequence[float]]


def num_saved_parameters(shape: ModelShape, configuration: Configuration) -> int:
    """Return the numbers in a configuration's adapter file, those of the head included."""
    saved = (
        get_method(module.method).num_saved_parameters(shape, module)
        for module in configuration.modules
    )
    return sum(saved) + shape.num_head_parameters


def inference_extra_flops(shape: ModelShape, configuration: Configuration) -> int:
    """Return the operations a token costs more than on the base model alone."""
    return sum(
        get_method(module.method).inference_extra_flops(shape, module)
        for module in configuration.modules
    )


def check_constraints(
    space: SearchSpace,
    constraints: Iterable[Constraint],
    *,
    weights: str = "auto",
    optimizer: str = "adamw",
) -> None:
    """Refuse limits on what is known of a configuration without training it.

    Parameters, file and operations are exact; the value nearest to the limit is that of the
    best of a sample and of what a descent from it finds. Memory is only held against what the
    frozen weights alone take.

    Args:
        space: Where the search looks.
        constraints: The job's; those on other costs, or on its metric, are passed over.
        weights: Type of the frozen weights, or their quantisation.
        optimizer: The job's own.

    Raises:
        InvalidJobError: a limit cannot be kept.
    """
    shape = space.shape
    costs = _known_costs(space, optimizer)
    for constraint in constraints:
        if constraint.name == TRAIN_MEMORY_BYTES:
            _check_weights(shape, constraint, _WEIGHT_BYTES.get(weights, 2.0))
        elif constraint.name in costs:
            _check(space, constraint, costs[constraint.name], _head(shape, constraint.name))


def check_memory(
    space: SearchSpace,
    constraints: Iterable[Constraint],
    memory: Cost,
    *,
    worker_bytes: int | None = None,
    training: TrainingSettings | None = None,
) -> None:
    """Refuse a limit on predicted memory that no configuration keeps.

    Args:
        space: Where the search looks.
        constraints: The job's; those on other costs are passed over.
        memory: Predicts bytes.
        worker_bytes: What a worker has, where that is known.
        training: The job's own settings, for the advice on what else would save memory.

    Raises:
        InvalidJobError: the limit cannot be kept.
    """
    if worker_bytes is not None:
        least = _extreme(space, memory, 1.0, worker_bytes)
        if least > worker_bytes:
            raise InvalidJobError(
                f"a worker has {worker_bytes / 2**20:,.4g} MiB of memory: the smallest "
                f"configuration of the space needs about {least / 2**20:,.4g} MiB",
                hint=_less_memory(space, training),
            )
    for constraint in constraints:
        if constraint.name == TRAIN_MEMORY_BYTES:
            _check(space, constraint, memory, 0)


def _less_memory(space: SearchSpace, training: TrainingSettings | None) -> str:
    """Say what is left to do about memory: nothing that is done, or searched, already."""
    searched = space.training.domains
    sizes = searched["batch_size"].values if "batch_size" in searched else ()
    batch_size, parts = 2, 1
    if training is not None:
        batch_size, parts = training.batch_size, training.gradient_accumulation
    batch_size = min(sizes, default=batch_size)
    shorter = "training.max_tokens"
    if batch_size > 1:
        listed = "the values of space.training.batch_size" if sizes else "training.batch_size"
        shorter = f"{listed} or {shorter}"
    steps = ["raise workers.memory", f"lower {shorter}"]
    if CHECKPOINTING not in searched and not space.shape.uses_gradient_checkpointing:
        steps.append("set training.gradient_checkpointing: true")
    if batch_size > parts and "gradient_accumulation" not in searched:
        steps.append("raise training.gradient_accumulation")
    return f"{', '.join(steps[:-1])} or {steps[-1]}"


def _known_costs(space: SearchSpace, optimizer: str) -> dict[str, Cost]:
    shape = space.shape

    def num_adapter(configuration: Configuration) -> int:
        own = str(dict(configuration.training).get("optimizer", optimizer))
        return num_trained(shape, configuration.modules, own)

    return {
        "num_trainable_parameters": lambda several: [
            num_adapter(each) + shape.num_head_parameters for each in several
        ],
        "num_adapter_parameters": lambda several: [num_adapter(each) for each in several],
        ADAPTER_FILE_BYTES: lambda several: [
            num_saved_parameters(shape, each) * BYTES_PER_SAVED_NUMBER for each in several
        ],
        INFERENCE_EXTRA_FLOPS: lambda several: [
            inference_extra_flops(shape, each) for each in several
        ],
    }


def _head(shape: ModelShape, name: str) -> int:
    """Return what the task head alone counts of a cost."""
    factor = {"num_trainable_parameters": 1, ADAPTER_FILE_BYTES: BYTES_PER_SAVED_NUMBER}
    return factor.get(name, 0) * shape.num_head_parameters


def _check(space: SearchSpace, constraint: Constraint, cost: Cost, head: int) -> None:
    low, high = constraint.minimum, constraint.maximum
    if high is not None and (least := _extreme(space, cost, 1.0, high)) > high:
        alone = f" (its head alone {number_text(head)})" if head else ""
        raise InvalidJobError(
            f"constraint {_bound(constraint.name, maximum=high)}: the smallest configuration of "
            f"the space has {number_text(least)}{alone}",
            hint=f"raise constraints.{constraint.name}.max to {number_text(least)} or more, or "
            "name a space with smaller configurations",
        )
    if low is not None and (most := _extreme(space, cost, -1.0, low)) < low:
        raise InvalidJobError(
            f"constraint {_bound(constraint.name, minimum=low)}: the largest configuration of "
            f"the space has {number_text(most)}",
            hint=f"lower constraints.{constraint.name}.min to {number_text(most)} or less, or "
            "name a space with larger configurations",
        )


def _check_weights(shape: ModelShape, constraint: Constraint, num_bytes: float) -> None:
    """Refuse a limit on memory that the frozen weights alone break."""
    weights = shape.num_base_parameters * num_bytes
    if constraint.maximum is not None and weights > constraint.maximum:
        raise InvalidJobError(
            f"constraint {_bound(constraint.name, maximum=constraint.maximum)}: the frozen "
            f"weights of {shape.name} alone take {number_text(weights)} or more",
            hint=f"raise constraints.{constraint.name}.max, set model.dtype or "
            "model.quantization, or name a smaller model",
        )


def _bound(name: str, *, minimum: float | None = None, maximum: float | None = None) -> str:
    return str(Constraint(name=name, minimum=minimum, maximum=maximum))


def _extreme(space: SearchSpace, cost: Cost, sign: float, limit: float) -> float:
    """Return the smallest (``sign`` 1) or largest (-1) cost found; ends where one is allowed."""
    generator = np.random.default_rng(0)
    proposed = [proposal.configuration for proposal in space.portfolio()]
    sample = list(dict.fromkeys([*proposed, *space.sample(_NUM_SAMPLES, generator)]))
    values = [sign * found for found in cost(sample)]
    ranked = sorted(
        ((value, each) for value, each in zip(values, sample, strict=True)),
        key=lambda pair: (pair[0], pair[1].key),
    )
    best = ranked[0][0]
    starts: dict[tuple[str, ...], tuple[float, Configuration]] = {}
    for value, each in ranked:
        starts.setdefault(each.methods, (value, each))
    for value, current in list(starts.values())[:_NUM_STARTS]:
        in_vain = 0
        while best > sign * limit and in_vain < _MAX_IN_VAIN:
            neighbour = space.mutate(current, generator)
            found = sign * cost([neighbour])[0]
            in_vain = 0 if found < value else in_vain + 1
            if found <= value:
                value, current = found, neighbour
            best = min(best, value)
    return sign * best
