"""From a job to everything a search needs: data, model shape, space, costs, scale."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from autopeft.records import Costs, ModelShape
from autopeft.results.front import MEASURED_ENDS, Constraint, ObjectiveScale
from autopeft.search_spaces.method import num_trained
from autopeft.search_spaces.space import SearchSpace
from autopeft.service.examination import examine
from autopeft.service.feasibility import (
    BYTES_PER_SAVED_NUMBER,
    check_memory,
    inference_extra_flops,
    num_saved_parameters,
)
from autopeft.service.job_spec import JobSpec
from autopeft.service.last_step import last_step_text
from autopeft.service.limits import worker_memory_bytes
from autopeft.service.memory_models import MemoryModels

if TYPE_CHECKING:
    from autopeft.proposers.base import CostFunction
    from autopeft.search_spaces.configuration import Configuration
    from autopeft.workers.settings import TrainingSettings
    from autopeft.workers.worker import WorkerPlan

#: Configurations drawn to find how cheap and how costly the space can be.
NUM_SCALE_SAMPLES = 256
#: Of which so many are also accounted for exactly, and the seconds after which no other one is.
NUM_COMPARED, COMPARED_SECONDS = 12, 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Facts found at the start of a job and recorded with it; a resume must find them again.

    Attributes:
        shape: Of the base model with its task head.
        task: Name of the task, never ``auto``.
        metric: Name of the metric behind the score.
        greater_is_better: Whether more of the metric is better.
        id2label: Class names by class number; None for regression.
        num_outputs: Width of the task head.
        fingerprint: Of the rows of all splits.
        provenance: Where the rows came from.
        num_rows: Rows by split.
        text_columns: Names of the columns a model sees.
        input_roles: What they are to the task, e.g. ``text`` or ``prompt``, ``completion``.
        scale: How the objectives compare.
        memory_tokens: Tokens per example that memory is predicted for: the longest example.
        memory_error: How far quick predictions of memory lie from exact accounting; None where
            nothing was compared.
    """

    shape: ModelShape
    task: str
    metric: str
    greater_is_better: bool
    id2label: tuple[str, ...] | None
    num_outputs: int
    fingerprint: str
    provenance: Mapping[str, Any]
    num_rows: Mapping[str, int]
    text_columns: tuple[str, ...]
    input_roles: tuple[str, ...]
    scale: ObjectiveScale
    memory_tokens: int
    memory_error: Mapping[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {
            **plain,
            "shape": self.shape.to_json(),
            "scale": self.scale.to_json(),
            "id2label": None if self.id2label is None else list(self.id2label),
            "text_columns": list(self.text_columns),
            "input_roles": list(self.input_roles),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Workbench:
    """What the driver works with; rebuilt at every start, never stored.

    Attributes:
        prepared: The recorded facts.
        plan: What every worker needs.
        max_tokens: Longer examples are truncated.
        training: The job's training settings, epochs resolved to steps.
        space: Where to search.
        costs: Costs of many configurations, predicted quickly.
        exact_costs: Costs of one configuration, by exact accounting.
        is_conversational: Whether examples are conversations, written by a chat template.
        memory_bytes: What a trial may need on a worker; None where nothing limits it.
    """

    prepared: Prepared
    plan: WorkerPlan
    max_tokens: int
    training: TrainingSettings
    space: SearchSpace
    costs: CostFunction
    exact_costs: Callable[[Configuration], Costs]
    is_conversational: bool = False
    memory_bytes: int | None = None

    @property
    def scale(self) -> ObjectiveScale:
        """How the objectives compare."""
        return self.prepared.scale

    @property
    def last_step(self) -> str:
        """What a trial goes through after its last step, for people; "" for nothing."""
        return last_step_text(self.plan)


def prepare(
    spec: JobSpec,
    *,
    scale: ObjectiveScale | None = None,
    score_on: Literal["validation", "test"] = "validation",
    on_phase: Callable[[str], None] = lambda text: None,
    on_progress: Callable[[str], None] = lambda text: None,
    kept_metric: Path | None = None,
) -> Workbench:
    """Read the data, look at the model and build the space.

    Args:
        spec: The job.
        scale: The recorded scale of a job that is resumed; found anew where None.
        score_on: ``validation`` in a search. ``test`` only for finalists.
        on_phase: Told what is going on.
        on_progress: Told how far something slow is, also later, when costs are predicted.
        kept_metric: The job's copy of the user's metric; it counts where it is there.

    Raises:
        AutopeftError: data, model or space do not fit the job.
    """
    from autopeft.workers.data.language import is_conversational
    from autopeft.workers.tasks.base import TASKS
    from autopeft.workers.worker import WorkerPlan

    found = examine(spec, score_on=score_on, on_phase=on_phase, kept_metric=kept_metric)
    goal, splits, encoding = found.read.goal, found.read.splits, found.read.encoding
    model, data, space = found.model, found.encoded, found.space
    task = TASKS.get(goal.task)()

    on_phase("predicting memory")
    memory_bytes = worker_memory_bytes(spec)
    memory = MemoryModels(
        spec,
        model.config,
        model.shape,
        tokens=found.tokens,
        task=goal.task,
        data=data,
        on_progress=on_progress,
    )
    costs = ModelCosts(model.shape, spec.training.optimizer, memory)
    is_new = scale is None
    if scale is None:
        check_memory(
            space,
            goal.constraints,
            lambda several: [each.train_memory_bytes for each in costs.predict(several)],
            worker_bytes=memory_bytes,
            training=found.training,
        )
        ends = (task.chance_score(encoding, goal.metric, data), task.ideal_score(goal.metric))
        scale = find_scale(
            space,
            costs.predict,
            goal.metric,
            goal.cost_names,
            ends,
            constraints=goal.constraints,
            seed=spec.seed,
        )
    on_phase("comparing quick predictions of memory with exact ones")
    error = costs.memory_error(space.sobol(NUM_COMPARED, seed=spec.seed)) if is_new else None
    prepared = Prepared(
        shape=model.shape,
        task=goal.task,
        metric=goal.metric,
        greater_is_better=task.metrics[goal.metric],
        id2label=encoding.id2label,
        num_outputs=encoding.num_outputs,
        fingerprint=splits.fingerprint,
        provenance=dict(splits.provenance),
        num_rows={name: len(rows) for name, rows in splits.splits.items()},
        text_columns=splits.text_columns,
        input_roles=tuple(splits.splits["train"].columns),
        scale=scale,
        memory_tokens=found.tokens,
        memory_error=error,
    )
    plan = WorkerPlan(
        source=model.source,
        data=data,
        id2label=encoding.id2label,
        shape=model.shape,
        generation=found.answers,
        probe=found.probe,
    )
    return Workbench(
        prepared=prepared,
        plan=plan,
        max_tokens=spec.training.max_tokens,
        training=found.training,
        space=space,
        costs=costs.predict,
        exact_costs=costs.exact,
        is_conversational=is_conversational(splits.splits["train"]),
        memory_bytes=memory_bytes,
    )


class ModelCosts:
    """Costs of configurations on one model: parameters exact, memory predicted.

    Args:
        shape: The model.
        optimizer: What trains where a configuration does not say.
        memory: Predicts memory; where None, it counts as 0.
    """

    def __init__(self, shape: ModelShape, optimizer: str, memory: MemoryModels | None) -> None:
        self._shape = shape
        self._optimizer = optimizer
        self._memory = memory

    def predict(self, configurations: Sequence[Configuration]) -> list[Costs]:
        """Return the costs of many configurations, in order."""
        if not configurations:
            return []
        if self._memory is None:
            return [self._with_memory(configuration, 0) for configuration in configurations]
        memory = self._memory.predict(configurations)
        return [
            self._with_memory(configuration, int(num_bytes))
            for configuration, num_bytes in zip(configurations, memory, strict=True)
        ]

    def exact(self, configuration: Configuration) -> Costs:
        """Return the costs of one configuration, its memory by exact accounting."""
        probed = 0 if self._memory is None else self._memory.probe(configuration).total_bytes
        return self._with_memory(configuration, probed)

    def memory_error(
        self, configurations: Sequence[Configuration], *, seconds: float = COMPARED_SECONDS
    ) -> dict[str, float] | None:
        """Compare quick predictions of memory with exact accounting, as far as time allows.

        Args:
            configurations: To compare, one after the other.
            seconds: After which no other one is begun.

        Returns:
            ``median`` and ``worst`` of the relative errors and ``num_compared``; None where
            memory is not predicted.
        """
        if self._memory is None or not configurations:
            return None
        quick = self._memory.predict(configurations)
        started = time.monotonic()
        errors: list[float] = []
        for configuration, num_bytes in zip(configurations, quick, strict=True):
            exact = self._memory.probe(configuration).total_bytes
            errors.append(abs(float(num_bytes) / exact - 1))
            if time.monotonic() - started > seconds:
                break
        return {
            "median": statistics.median(errors),
            "worst": max(errors),
            "num_compared": len(errors),
        }

    def _with_memory(self, configuration: Configuration, num_bytes: int) -> Costs:
        optimizer = dict(configuration.training).get("optimizer", self._optimizer)
        adapter = num_trained(self._shape, configuration.modules, str(optimizer))
        saved = num_saved_parameters(self._shape, configuration)
        return Costs(
            num_trainable_parameters=adapter + self._shape.num_head_parameters,
            num_adapter_parameters=adapter,
            train_memory_bytes=num_bytes,
            adapter_file_bytes=saved * BYTES_PER_SAVED_NUMBER,
            inference_extra_flops=inference_extra_flops(self._shape, configuration),
        )


def find_scale(
    space: SearchSpace,
    costs: CostFunction,
    metric: str,
    cost_names: tuple[str, ...],
    score_ends: tuple[float, float],
    *,
    constraints: tuple[Constraint, ...],
    seed: int,
) -> ObjectiveScale:
    """Fix reference and ideal point: chance and perfection, cheapest and costliest.

    Of costs that only training tells, the ends are fixed by their nature.

    Args:
        space: Where the search looks.
        costs: Predicts costs.
        metric: Behind the score.
        cost_names: Costs among the objectives.
        score_ends: Scores of chance and of perfection; more is better.
        constraints: What a trial must keep to.
        seed: Of the configurations that are looked at.
    """
    sample = [
        *space.sobol(NUM_SCALE_SAMPLES, seed=seed),
        *(proposal.configuration for proposal in space.portfolio()),
    ]
    table = costs(sample)
    ends = []
    for name in cost_names:
        column = [getattr(row, name) for row in table]
        ends.append(MEASURED_ENDS.get(name) or (float(min(column)), float(max(column))))
    return ObjectiveScale(
        metric=metric,
        cost_names=cost_names,
        score_reference=score_ends[0],
        score_ideal=score_ends[1],
        cost_ideal=tuple(low for low, _ in ends),
        cost_reference=tuple(high for _, high in ends),
        constraints=constraints,
    )
