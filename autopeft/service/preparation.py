"""From a job to everything a search needs: data, model shape, space, costs, scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from autopeft.errors import DataError, InvalidJobError
from autopeft.naming import did_you_mean
from autopeft.records import COST_NAMES, Costs, ModelShape
from autopeft.results.front import MEASURED_ENDS, Constraint, ObjectiveScale
from autopeft.search_spaces.method import get_method
from autopeft.search_spaces.space import SearchSpace, load_space
from autopeft.service.job_spec import JobSpec
from autopeft.service.last_step import plan_answers, read_probe_of
from autopeft.workers.tasks.metric_names import METRICS_BY_TASK

if TYPE_CHECKING:
    from autopeft.proposers.base import CostFunction
    from autopeft.search_spaces.configuration import Configuration
    from autopeft.workers.dataset import EncodedData
    from autopeft.workers.generation import GenerationPlan
    from autopeft.workers.memory import MemoryModel
    from autopeft.workers.settings import TrainingSettings
    from autopeft.workers.worker import WorkerPlan

#: Configurations drawn to find how cheap and how costly the space can be.
NUM_SCALE_SAMPLES = 256

#: Adapters are trained and saved as float32, also over a base of half precision.
BYTES_PER_SAVED_NUMBER = 4

#: Batches are padded to a multiple of this many tokens.
TOKEN_MULTIPLE = 8


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
    """

    prepared: Prepared
    plan: WorkerPlan
    max_tokens: int
    training: TrainingSettings
    space: SearchSpace
    costs: CostFunction
    exact_costs: Callable[[Configuration], Costs]


def prepare(
    spec: JobSpec,
    *,
    scale: ObjectiveScale | None = None,
    score_on: Literal["validation", "test"] = "validation",
    on_phase: Callable[[str], None] = lambda text: None,
    kept_metric: Path | None = None,
) -> Workbench:
    """Read the data, look at the model and build the space.

    Args:
        spec: The job.
        scale: The recorded scale of a job that is resumed; found anew where None.
        score_on: ``validation`` in a search. ``test`` only for finalists.
        on_phase: Told what is going on.
        kept_metric: The job's copy of the user's metric; it counts where it is there.

    Raises:
        AutopeftError: data, model or space do not fit the job.
    """
    from autopeft.workers.data import encode_splits
    from autopeft.workers.data.chat import read_chat_template
    from autopeft.workers.loading import load_splits
    from autopeft.workers.models import load_config, max_positions, resolve_model
    from autopeft.workers.pretraining.building import build_if_missing
    from autopeft.workers.processors import load_processor
    from autopeft.workers.shapes import model_shape
    from autopeft.workers.tasks.base import TASKS, EncodingSettings, infer_task
    from autopeft.workers.worker import WorkerPlan

    on_phase("reading the data")
    splits = load_splits(spec.data, base=spec.base, seed=spec.seed, task=spec.task)
    task_name = infer_task(splits) if spec.task == "auto" else spec.task
    metric, cost_names = split_objectives(spec.objectives, task_name)
    task = TASKS.get(task_name)()
    encoding = task.encode_labels(splits)

    build_if_missing(spec.model.name, on_phase)
    on_phase("looking at the model")
    source = resolve_model(spec.model, base=spec.base)
    config = load_config(source, encoding.num_outputs, encoding.id2label, task_name)
    shape = model_shape(source, config, task_name)

    on_phase("encoding the data")
    encoding_settings = EncodingSettings(
        max_tokens=spec.training.max_tokens,
        packing=spec.training.packing,
        chat_template=read_chat_template(spec.data, spec.base),
    )
    processor = load_processor(source, config, task.modality)
    data = encode_splits(task, splits, encoding, processor, encoding_settings, score_on=score_on)
    answers = plan_answers(
        spec,
        task,
        splits.splits[score_on],
        processor,
        encoding_settings,
        max_positions=max_positions(config),
        kept_metric=kept_metric,
    )
    tokens, num_free_positions = _longest_batch(data, spec, config)
    if answers is not None and num_free_positions is not None:
        num_free_positions = min(num_free_positions, _positions_left(answers, config))
    training = spec.training.resolved(len(data.train))
    shape = replace(
        shape,
        num_free_positions=num_free_positions,
        uses_packing=training.packing,
        uses_gradient_checkpointing=training.gradient_checkpointing,
    )
    space = load_space(spec.space, shape, base=spec.base)

    on_phase("predicting memory")
    costs = _Costs(spec, shape, space, config, tokens, task_name, data)
    if scale is None:
        ends = (task.chance_score(encoding, metric, data), task.ideal_score(metric))
        scale = _find_scale(
            space,
            costs,
            metric,
            cost_names,
            ends,
            constraints=_constraints(spec, metric),
            seed=spec.seed,
        )
    prepared = Prepared(
        shape=shape,
        task=task_name,
        metric=metric,
        greater_is_better=METRICS_BY_TASK[task_name][metric],
        id2label=encoding.id2label,
        num_outputs=encoding.num_outputs,
        fingerprint=splits.fingerprint,
        provenance=dict(splits.provenance),
        num_rows={name: len(rows) for name, rows in splits.splits.items()},
        text_columns=splits.text_columns,
        input_roles=tuple(splits.splits["train"].columns),
        scale=scale,
        memory_tokens=tokens,
    )
    plan = WorkerPlan(
        source=source,
        data=data,
        id2label=encoding.id2label,
        shape=shape,
        generation=answers,
        probe=read_probe_of(spec, task_name, processor),
    )
    return Workbench(
        prepared=prepared,
        plan=plan,
        max_tokens=spec.training.max_tokens,
        training=training,
        space=space,
        costs=costs.predict,
        exact_costs=costs.exact,
    )


def _padded(num_tokens: int) -> int:
    """Return the width of a batch whose longest example has ``num_tokens``."""
    return -(-num_tokens // TOKEN_MULTIPLE) * TOKEN_MULTIPLE


def _positions_left(answers: GenerationPlan, config: Any) -> int:
    """Return the positions that the longest prompt and its answer leave free."""
    from autopeft.workers.models import max_positions

    most = max_positions(config)
    assert most is not None
    longest = max(len(prompt) for prompt in answers.prompts)
    return most - longest - answers.settings.max_new_tokens


def _longest_batch(data: EncodedData, spec: JobSpec, config: Any) -> tuple[int, int | None]:
    """Return the tokens of the longest training batch, and the positions any batch leaves free.

    Raises:
        DataError: there are not enough rows for one batch.
        InvalidJobError: the longest batch finds no positions in the model.
    """
    from autopeft.workers.models import max_positions

    batch_size = spec.training.batch_size
    if len(data.train) < batch_size:
        examples = "packed sequences" if spec.training.packing else "rows"
        raise DataError(
            f"the training split has {len(data.train)} {examples}, fewer than one batch of "
            f"{batch_size}",
            hint="lower training.batch_size, or give more training rows",
        )
    tokens = _padded(data.train.longest)
    longest = max(tokens, _padded(data.validation.longest))
    most = max_positions(config)
    if most is None:
        return tokens, None
    if longest > most:
        raise InvalidJobError(
            f"training.max_tokens is {spec.training.max_tokens} and the longest batch has "
            f"{longest} tokens, but the model takes at most {most}",
            hint=f"set training.max_tokens to {most // TOKEN_MULTIPLE * TOKEN_MULTIPLE} or less",
        )
    return tokens, most - longest


def split_objectives(objectives: Sequence[str] | None, task: str) -> tuple[str, tuple[str, ...]]:
    """Return the metric and the costs among a job's objectives.

    Raises:
        InvalidJobError: a name is no metric of the task and no cost.
    """
    from autopeft.workers.tasks.base import TASKS

    metrics = METRICS_BY_TASK[task]
    default = TASKS.get(task).default_metric
    if objectives is None:
        return default, (COST_NAMES[0], COST_NAMES[2])
    unknown = [name for name in objectives if name not in metrics and name not in COST_NAMES]
    if unknown:
        raise InvalidJobError(
            f"objectives do not fit the task {task!r}",
            problems=[
                f"objectives: {name!r} is neither a metric of {task} nor a cost"
                f"{did_you_mean(name, [*metrics, *COST_NAMES])}"
                for name in unknown
            ],
            hint=f"metrics of {task}: {', '.join(metrics)}; costs: {', '.join(COST_NAMES)}",
        )
    chosen = [name for name in objectives if name in metrics]
    return (
        chosen[0] if chosen else default,
        tuple(name for name in objectives if name in COST_NAMES),
    )


def _constraints(spec: JobSpec, metric: str) -> tuple[Constraint, ...]:
    """Return the job's constraints.

    Raises:
        InvalidJobError: one names a metric that is not the job's.
    """
    for name in spec.constraints:
        if name not in COST_NAMES and name != metric:
            raise InvalidJobError(
                f"constraints: {name!r} is no cost, and the job's metric is {metric!r}",
                hint=f"limit {metric}, or one of the costs: {', '.join(COST_NAMES)}",
            )
    return tuple(
        Constraint(name=name, minimum=limit.min, maximum=limit.max)
        for name, limit in sorted(spec.constraints.items())
    )


class _Costs:
    """Costs of configurations on one model: parameters exact, memory predicted."""

    def __init__(
        self,
        spec: JobSpec,
        shape: ModelShape,
        space: SearchSpace,
        config: Any,
        tokens: int,
        task: str,
        data: EncodedData,
    ) -> None:
        from autopeft.workers.memory import MemoryModel, longest_inputs, step_dtypes

        self._shape = shape
        self._space = space
        self._memory: MemoryModel = MemoryModel(
            config,
            shape,
            batch_size=spec.training.micro_batch_size,
            tokens=tokens,
            task=task,
            device="cuda" if spec.workers.gpus else "cpu",
            inputs=longest_inputs(data.train, spec.training.micro_batch_size, data.pad_token_id),
            **step_dtypes(config, spec.model, spec.training.precision),
        )

    def predict(self, configurations: Sequence[Configuration]) -> list[Costs]:
        if not configurations:
            return []
        memory = self._memory.predict(configurations)
        return [
            self._with_memory(configuration, int(num_bytes))
            for configuration, num_bytes in zip(configurations, memory, strict=True)
        ]

    def exact(self, configuration: Configuration) -> Costs:
        return self._with_memory(configuration, self._memory.probe(configuration).total_bytes)

    def _with_memory(self, configuration: Configuration, num_bytes: int) -> Costs:
        adapter = self._space.num_adapter_parameters(configuration)
        head = self._shape.num_head_parameters
        saved = extra = 0
        for module in configuration.modules:
            method = get_method(module.method)
            saved += method.num_saved_parameters(self._shape, module)
            extra += method.inference_extra_flops(self._shape, module)
        return Costs(
            num_trainable_parameters=adapter + head,
            num_adapter_parameters=adapter,
            train_memory_bytes=num_bytes,
            adapter_file_bytes=(saved + head) * BYTES_PER_SAVED_NUMBER,
            inference_extra_flops=extra,
        )


def _find_scale(
    space: SearchSpace,
    costs: _Costs,
    metric: str,
    cost_names: tuple[str, ...],
    score_ends: tuple[float, float],
    *,
    constraints: tuple[Constraint, ...],
    seed: int,
) -> ObjectiveScale:
    """Fix reference and ideal point: chance and perfection, cheapest and costliest.

    Of costs that only training tells, the ends are fixed by their nature.
    """
    sample = [
        *space.sobol(NUM_SCALE_SAMPLES, seed=seed),
        *(proposal.configuration for proposal in space.portfolio()),
    ]
    table = costs.predict(sample)
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
