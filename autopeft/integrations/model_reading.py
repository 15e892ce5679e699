"""What a search needs of a model, without its weights: space, costs, scale.

Beside this there are no data: examples are as long as one says they are, and where the scores of
chance and of perfection are not known by the metric's name, one says that too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from autopeft.errors import AutopeftError, InvalidJobError, ModelError
from autopeft.naming import or_nearest
from autopeft.proposers.base import CostFunction
from autopeft.records import COST_NAMES, TRAIN_MEMORY_BYTES, Costs, ModelShape
from autopeft.results.front import Constraint, ObjectiveScale
from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.space import SearchSpace, load_space
from autopeft.service.job_problems import problems_of
from autopeft.service.job_spec import JobSpec

Mode = Literal["max", "min"]

#: Metrics whose ends are known by their names: 0 is what a predictor gets that knows nothing.
_FROM_ZERO_TO_ONE = ("f1", "matthews", "spearman", "pearson")


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A model as its guest sees it.

    Attributes:
        space: Where to search.
        scale: How the objectives compare.
        costs: Costs of many configurations, predicted quickly.
        exact_costs: Costs of one, by exact accounting.
    """

    space: SearchSpace
    scale: ObjectiveScale
    costs: CostFunction
    exact_costs: Callable[[Configuration], Costs]


def read_model(
    model: str,
    *,
    task: str,
    num_outputs: int,
    space: str | Path | Mapping[str, Any],
    metric: str,
    mode: Mode,
    max_steps: int,
    objectives: Sequence[str],
    limits: Mapping[str, float],
    batch_size: int,
    tokens: int,
    training: Mapping[str, Any],
    gpus: float,
    score_range: tuple[float, float] | None,
    seed: int,
    scale: ObjectiveScale | None = None,
) -> Guest:
    """Read a model's configuration and build what a search needs.

    The arguments are those of :meth:`~autopeft.integrations.study.PeftStudy.of_model`.

    Raises:
        AutopeftError: the model cannot be had, or something does not fit it.
    """
    from autopeft.service.feasibility import check_constraints, check_memory
    from autopeft.service.job_training import check_precision, job_training
    from autopeft.service.memory_models import MemoryModels
    from autopeft.service.preparation import ModelCosts, find_scale

    cost_names = _cost_names(objectives, metric)
    constraints = _constraints(limits)
    spec = _spec(model, task, max_steps, batch_size, tokens, training, gpus)
    config, shape = _look(spec, num_outputs, tokens)
    found = load_space(space, shape, training=job_training(spec.training))
    check_precision(spec, config, found)
    optimizer = spec.training.optimizer
    weights = spec.model.quantization or spec.model.dtype
    check_constraints(found, constraints, weights=weights, optimizer=optimizer)
    memory = None
    if TRAIN_MEMORY_BYTES in (*cost_names, *limits):
        memory = MemoryModels(spec, config, shape, tokens=tokens, task=task, data=None)
    costs = ModelCosts(shape, optimizer, memory)
    if scale is None:
        check_memory(
            found,
            constraints,
            lambda several: [each.train_memory_bytes for each in costs.predict(several)],
            training=spec.training,
        )
        worst, best = score_range or known_range(metric, num_outputs, shape)
        sign = 1 if mode == "max" else -1
        if not sign * worst < sign * best:
            raise AutopeftError(
                f"score_range is ({worst:g}, {best:g}) and mode is {mode!r}",
                hint="give the value of chance first, then the best there can be",
            )
        ends = (sign * worst, sign * best)
        scale = find_scale(
            found, costs.predict, metric, cost_names, ends, constraints=constraints, seed=seed
        )
    return Guest(space=found, scale=scale, costs=costs.predict, exact_costs=costs.exact)


def known_range(metric: str, num_outputs: int, shape: ModelShape) -> tuple[float, float]:
    """Return the value of chance and the best one of a metric that is known by its name.

    Chance takes all classes, or all tokens, to be equally likely.

    Raises:
        AutopeftError: it is not known.
    """
    if metric == "accuracy" and num_outputs > 1:
        return 1 / num_outputs, 1.0
    if metric in _FROM_ZERO_TO_ONE:
        return 0.0, 1.0
    classes = num_outputs if shape.head_paths else shape.vocab_size
    if metric == "loss" and classes > 1:
        return math.log(classes), 0.0
    raise AutopeftError(
        f"it is not known between which values {metric!r} lies",
        hint="give score_range=(value of chance, best value there can be)",
    )


def _cost_names(objectives: Sequence[str], metric: str) -> tuple[str, ...]:
    for name in objectives:
        if name not in (*COST_NAMES, metric):
            raise AutopeftError(
                f"objectives: {name!r} is no cost{or_nearest(name, COST_NAMES)}",
                hint=f"choose among {', '.join(COST_NAMES)}",
            )
    return tuple(name for name in dict.fromkeys(objectives) if name != metric)


def _constraints(limits: Mapping[str, float]) -> tuple[Constraint, ...]:
    for name in limits:
        if name not in COST_NAMES:
            raise AutopeftError(
                f"limits: {name!r} is no cost{or_nearest(name, COST_NAMES)}",
                hint=f"choose among {', '.join(COST_NAMES)}",
            )
    return tuple(Constraint(name=n, maximum=float(limit)) for n, limit in sorted(limits.items()))


def _spec(
    model: str,
    task: str,
    max_steps: int,
    batch_size: int,
    tokens: int,
    training: Mapping[str, Any],
    gpus: float,
) -> JobSpec:
    """Return the job that a guest's training step would be one of.

    Raises:
        InvalidJobError: with every problem found.
    """
    own = {"steps": max_steps, "batch_size": batch_size, "max_tokens": tokens}
    try:
        return JobSpec.model_validate(
            {
                "name": "guest",
                "output": "guest",
                "base": Path.cwd(),
                "model": {"name": model},
                "data": {"name": "guest"},
                "task": task,
                "training": {**own, **training},
                "workers": {"gpus": gpus},
            }
        )
    except ValidationError as error:
        problems = [f"{'.'.join(each.path)}: {each.text}" for each in problems_of(error, JobSpec)]
        raise InvalidJobError("the study's model or training is wrong:", problems=problems) from (
            error
        )


def _look(spec: JobSpec, num_outputs: int, tokens: int) -> tuple[Any, ModelShape]:
    """Return config and shape of the model; no weights are read."""
    from autopeft.workers.model_sources import is_at_hand, resolve_config
    from autopeft.workers.models import load_config, max_positions, quiet_transformers
    from autopeft.workers.shapes import model_shape
    from autopeft.workers.task_support import check_supports
    from autopeft.workers.tasks.base import TASKS

    outputs = num_outputs if TASKS.get(spec.task).has_head else 0
    name = spec.model.name
    if name.startswith("builtin:") and not is_at_hand(spec.model, spec.base):
        raise ModelError(
            f"{name} is not built yet, and a study builds nothing",
            hint=f"autopeft build {name.removeprefix('builtin:')}",
        )
    with quiet_transformers():
        source = resolve_config(spec.model, spec.base)
        config = load_config(source, outputs, None, spec.task)
        check_supports(source, config, spec.task)
        shape = model_shape(source, config, spec.task)
    most = max_positions(config)
    if most is not None and tokens > most:
        raise AutopeftError(
            f"examples of {tokens} tokens do not fit {shape.name}, which takes at most {most}",
            hint=f"give tokens={most} or less",
        )
    return config, replace(
        shape,
        num_free_positions=None if most is None else most - tokens,
        uses_packing=spec.training.packing,
        uses_gradient_checkpointing=spec.training.gradient_checkpointing,
    )
