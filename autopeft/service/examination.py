"""Whether a job, its data and its model go together: all that is found out before training.

:func:`examine` holds every refusal that needs neither weights nor a prediction of memory. A
search begins with it, and ``autopeft check`` is nothing but it, so the two cannot say different
things. The one difference is what is *at hand*: :func:`examine_at_hand` downloads nothing and
builds no model, and says what it left for the search.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from autopeft.errors import DataError, InvalidJobError
from autopeft.naming import nearest
from autopeft.records import COST_NAMES, ModelShape
from autopeft.results.front import Constraint
from autopeft.search_spaces.space import SearchSpace, load_space
from autopeft.service.feasibility import check_constraints
from autopeft.service.job_checks import task_problems
from autopeft.service.job_spec import JobSpec
from autopeft.service.job_training import check_optimizers, check_precision, job_training
from autopeft.service.last_step import plan_answers, read_probe_of
from autopeft.workers.task_names import CAUSAL_LM, CLASSIFICATION

if TYPE_CHECKING:
    from autopeft.workers.dataset import DataSplits, EncodedData, EncodedSplit
    from autopeft.workers.generation import GenerationPlan
    from autopeft.workers.model_sources import ModelSource
    from autopeft.workers.settings import TrainingSettings
    from autopeft.workers.tasks.base import LabelEncoding, Task

#: Batches are padded to a multiple of this many tokens.
TOKEN_MULTIPLE = 8
#: What built-in data, which takes seconds to make, is found to be for.
TASK_OF_BUILTIN_DATA: Mapping[str, str] = {
    "builtin:docstrings": CLASSIFICATION,
    "builtin:signatures": CAUSAL_LM,
}
#: Outputs a head is taken to have while the data are not read.
_SOME_OUTPUTS = 2

Phase = Callable[[str], None]
ScoreOn = Literal["validation", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What is trained for and how it is scored.

    Attributes:
        task: Name of the task, never ``auto``.
        metric: Name of the metric behind the score.
        cost_names: Costs among the objectives.
        constraints: What a trial must keep to.
    """

    task: str
    metric: str
    cost_names: tuple[str, ...]
    constraints: tuple[Constraint, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadData:
    """Data and what they are for.

    Attributes:
        splits: The rows.
        encoding: Their labels as numbers.
        goal: What they are for.
    """

    splits: DataSplits
    encoding: LabelEncoding
    goal: Goal


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadModel:
    """What is known of a model without its weights.

    Attributes:
        source: Where it comes from.
        config: Its transformers config, with the task's head.
        shape: Its layers.
    """

    source: ModelSource
    config: Any
    shape: ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """A job whose data, model and space go together.

    Attributes:
        read: Its data.
        model: Its model; the shape knows of the job's training settings.
        encoded: The data as the model takes them.
        answers: What is generated at a trial's end, where the job asks for it.
        probe: What retention is measured on, where the job asks for it.
        training: Settings, epochs resolved to steps.
        tokens: Tokens of the longest training batch.
        space: Where to search.
    """

    read: ReadData
    model: ReadModel
    encoded: EncodedData
    answers: GenerationPlan | None
    probe: EncodedSplit | None
    training: TrainingSettings
    tokens: int
    space: SearchSpace


@dataclass(frozen=True, slots=True, kw_only=True)
class AtHand:
    """What :func:`examine_at_hand` looked at.

    Attributes:
        read: The data; None where they are not at hand.
        goal: What is trained for; None where only the data will tell.
        missing: What is left for the search, each by the name the job gives it.
    """

    read: ReadData | None
    goal: Goal | None
    missing: tuple[str, ...]


def examine(
    spec: JobSpec,
    *,
    score_on: ScoreOn = "validation",
    on_phase: Phase = lambda text: None,
    kept_metric: Path | None = None,
) -> Examined:
    """Read data and model, and make sure that they go together; models are built or downloaded.

    Args:
        spec: The job.
        score_on: ``validation`` in a search. ``test`` only for finalists.
        on_phase: Told what is going on.
        kept_metric: The job's copy of the user's metric; it counts where it is there.

    Raises:
        AutopeftError: data, model or space do not fit the job.
    """
    from autopeft.workers.pretraining.building import build_if_missing

    on_phase("reading the data")
    data = read_data(spec)
    _check_packages(spec)
    build_if_missing(spec.model.name, on_phase)
    on_phase("looking at the model")
    model = _look_at_model(spec, data.goal.task, data.encoding.num_outputs, data.encoding.id2label)
    on_phase("encoding the data")
    return _fit(spec, data, model, score_on=score_on, kept_metric=kept_metric)


def examine_at_hand(spec: JobSpec) -> AtHand:
    """Do what :func:`examine` does, as far as nothing need be downloaded, built or made for it.

    Raises:
        AutopeftError: data, model or space do not fit the job, as a search would say.
    """
    missing = []
    read = None
    if spec.data.name is None:
        read = read_data(spec)
        goal: Goal | None = read.goal
    else:
        missing.append(spec.data.name)
        task = spec.task
        if task == "auto":
            task = TASK_OF_BUILTIN_DATA.get(spec.data.name, "auto")
        goal = None if task == "auto" else find_goal(spec, task)
    _check_packages(spec)
    if not _is_model_at_hand(spec):
        missing.append(spec.model.name)
    elif read is not None:
        encoding = read.encoding
        model = _look_at_model(spec, read.goal.task, encoding.num_outputs, encoding.id2label)
        _fit(spec, read, model)
    elif goal is not None:
        from autopeft.workers.tasks.base import TASKS

        num_outputs = _SOME_OUTPUTS if TASKS.get(goal.task).has_head else 0
        model = _look_at_model(spec, goal.task, num_outputs)
        _load_space(spec, model, goal)
    return AtHand(read=read, goal=goal, missing=tuple(missing))


def read_data(spec: JobSpec) -> ReadData:
    """Read the data and find out what they are for.

    Raises:
        AutopeftError: they cannot be read, or task and objectives do not fit them.
    """
    from autopeft.workers.loading import load_splits
    from autopeft.workers.tasks.base import TASKS, infer_task

    splits = load_splits(spec.data, base=spec.base, seed=spec.seed, task=spec.task)
    goal = find_goal(spec, infer_task(splits) if spec.task == "auto" else spec.task)
    return ReadData(splits=splits, encoding=TASKS.get(goal.task)().encode_labels(splits), goal=goal)


def find_goal(spec: JobSpec, task: str) -> Goal:
    """Return what is trained for, once the task is known.

    Raises:
        InvalidJobError: what the job asks for does not fit the task; every problem is told.
    """
    from autopeft.workers.tasks.base import TASKS

    problems = task_problems(spec.model_copy(update={"task": task}))
    if problems:
        lines = [f"{'.'.join(problem.path)}: {problem.text}" for problem in problems]
        found = ", which its data are for" if spec.task == "auto" else ""
        raise InvalidJobError(
            f"the job does not fit the task {task}{found}:",
            problems=list(dict.fromkeys(lines)),
            hint="change these, or name another task" if spec.task == "auto" else None,
        )
    metric, cost_names = _split_objectives(spec.objectives, TASKS.get(task))
    for name in spec.constraints:
        if name not in COST_NAMES and name != metric:
            raise InvalidJobError(
                f"constraints: {name!r} is no cost, and the job's metric is {metric!r}",
                hint=f"limit {metric}, or one of the costs: {', '.join(COST_NAMES)}",
            )
    constraints = tuple(
        Constraint(name=name, minimum=limit.min, maximum=limit.max)
        for name, limit in sorted(spec.constraints.items())
    )
    return Goal(task=task, metric=metric, cost_names=cost_names, constraints=constraints)


def _split_objectives(
    objectives: Sequence[str] | None, task: type[Task]
) -> tuple[str, tuple[str, ...]]:
    """Return the metric and the costs among a job's objectives."""
    if objectives is None:
        return task.default_metric, (COST_NAMES[0], COST_NAMES[2])
    known = [*task.metrics, *COST_NAMES]
    unknown = next((name for name in objectives if name not in known), None)
    if unknown is not None:
        close = nearest(unknown, known)
        raise InvalidJobError(
            f"objectives: {unknown!r} is neither a metric of {task.name} nor a cost"
            f"{f'; did you mean {close!r}?' if close else ''}",
            hint=f"metrics of {task.name}: {', '.join(task.metrics)}; "
            f"costs: {', '.join(COST_NAMES)}",
        )
    metric = next((name for name in objectives if name in task.metrics), task.default_metric)
    return metric, tuple(name for name in objectives if name in COST_NAMES)


def _check_packages(spec: JobSpec) -> None:
    """Raise ``ModelError`` or ``InvalidJobError`` where the job needs a package that is missing."""
    from autopeft.workers.models import check_attention, check_can_quantize
    from autopeft.workers.optimizers import check_optimizer

    check_can_quantize(spec.model.quantization)
    check_attention(spec.model.attention, "cuda" if spec.workers.gpus else "cpu")
    check_optimizer(spec.training.optimizer)


def _is_model_at_hand(spec: JobSpec) -> bool:
    """Tell whether the model's configuration can be read without building or downloading it."""
    from autopeft.workers.model_sources import is_at_hand

    return is_at_hand(spec.model, spec.base)


def _look_at_model(
    spec: JobSpec, task: str, num_outputs: int, id2label: Sequence[str] | None = None
) -> ReadModel:
    from autopeft.workers.models import load_config, resolve_model
    from autopeft.workers.shapes import model_shape
    from autopeft.workers.task_support import check_supports

    source = resolve_model(spec.model, base=spec.base)
    config = load_config(source, num_outputs, id2label, task)
    check_supports(source, config, task)
    return ReadModel(source=source, config=config, shape=model_shape(source, config, task))


def _fit(
    spec: JobSpec,
    read: ReadData,
    model: ReadModel,
    *,
    score_on: ScoreOn = "validation",
    kept_metric: Path | None = None,
) -> Examined:
    """Bring data and model together: tokens, lengths, answers and the space."""
    from autopeft.workers.data import encode_splits
    from autopeft.workers.data.chat import read_chat_template
    from autopeft.workers.models import max_positions
    from autopeft.workers.processors import load_processor
    from autopeft.workers.tasks.base import TASKS, EncodingSettings

    task = TASKS.get(read.goal.task)()
    settings = EncodingSettings(
        max_tokens=spec.training.max_tokens,
        packing=spec.training.packing,
        chat_template=read_chat_template(spec.data, spec.base),
    )
    processor = load_processor(model.source, model.config, task.modality)
    encoded = encode_splits(
        task, read.splits, read.encoding, processor, settings, score_on=score_on
    )
    most = max_positions(model.config)
    answers = plan_answers(
        spec,
        task,
        read.splits.splits[score_on],
        processor,
        settings,
        max_positions=most,
        kept_metric=kept_metric,
    )
    probe = read_probe_of(spec, read.goal.task, processor)
    tokens, num_free_positions = _longest_batch(encoded, spec, most)
    if answers is not None and num_free_positions is not None:
        num_free_positions = min(num_free_positions, _positions_left(answers, most))
    training = spec.training.resolved(len(encoded.train))
    shape = replace(
        model.shape,
        num_free_positions=num_free_positions,
        uses_packing=training.packing,
        uses_gradient_checkpointing=training.gradient_checkpointing,
    )
    space = _load_space(spec, replace(model, shape=shape), read.goal)
    _check_rows(encoded, spec, space)
    return Examined(
        read=read,
        model=replace(model, shape=shape),
        encoded=encoded,
        answers=answers,
        probe=probe,
        training=training,
        tokens=tokens,
        space=space,
    )


def _load_space(spec: JobSpec, model: ReadModel, goal: Goal) -> SearchSpace:
    """Return where to search.

    Raises:
        InvalidSpaceError: the space does not fit the model.
        InvalidJobError: nothing in it keeps to a constraint, or what it searches is no choice.
    """
    training = job_training(spec.training)
    space = load_space(spec.space, model.shape, base=spec.base, training=training)
    check_precision(spec, model.config, space)
    check_optimizers(space)
    weights = spec.model.quantization or spec.model.dtype
    check_constraints(space, goal.constraints, weights=weights, optimizer=spec.training.optimizer)
    return space


def _check_rows(data: EncodedData, spec: JobSpec, space: SearchSpace) -> None:
    """Make sure that there are enough rows for one batch.

    Raises:
        DataError: there are not.
    """
    searched = space.training.domains.get("batch_size")
    batch_size = spec.training.batch_size if searched is None else max(searched.values)
    if len(data.train) < batch_size:
        examples = "packed sequences" if spec.training.packing else "rows"
        key = "training.batch_size" if searched is None else "space.training.batch_size"
        raise DataError(
            f"the training split has {len(data.train)} {examples}, fewer than one batch of "
            f"{batch_size}",
            hint=f"lower {key}, or give more training rows",
        )


def _padded(num_tokens: int) -> int:
    """Return the width of a batch whose longest example has ``num_tokens``."""
    return -(-num_tokens // TOKEN_MULTIPLE) * TOKEN_MULTIPLE


def _positions_left(answers: GenerationPlan, most: int | None) -> int:
    """Return the positions that the longest prompt and its answer leave free."""
    assert most is not None
    longest = max(len(prompt) for prompt in answers.prompts)
    return most - longest - answers.settings.max_new_tokens


def _longest_batch(data: EncodedData, spec: JobSpec, most: int | None) -> tuple[int, int | None]:
    """Return the tokens of the longest training batch, and the positions any batch leaves free.

    Raises:
        InvalidJobError: the longest batch finds no positions in the model.
    """
    tokens = _padded(data.train.longest)
    longest = max(tokens, _padded(data.validation.longest))
    if most is None:
        return tokens, None
    if longest > most:
        raise InvalidJobError(
            f"training.max_tokens is {spec.training.max_tokens} and the longest batch has "
            f"{longest} tokens, but the model takes at most {most}",
            hint=f"set training.max_tokens to {most // TOKEN_MULTIPLE * TOKEN_MULTIPLE} or less",
        )
    return tokens, most - longest
