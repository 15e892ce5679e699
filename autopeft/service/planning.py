"""What fits into a GPU's memory: every method of a job's space, in a few sizes, by shapes alone.

Nothing is trained and no weights are read; a ``config.json`` is enough. Memory is the sum that
:meth:`~autopeft.workers.memory.MemoryModel.estimate` makes. In the batch size the peak is the
largest of a few straight lines (one for each phase of a step), so it is convex: it is computed at
the job's batch size and near the largest that fits, and between them the straight line through
both is at or above it. Beyond, the line is carried on. One row is checked by an exact probe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from autopeft.errors import AutopeftError, InvalidJobError, ModelError
from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.domains import Domain, SubsetDomain, ValueDomain
from autopeft.search_spaces.method import num_trained
from autopeft.search_spaces.space import SearchSpace, load_space
from autopeft.search_spaces.training_domain import shape_under
from autopeft.service.job_spec import JobSpec
from autopeft.service.job_training import job_training

if TYPE_CHECKING:
    from autopeft.workers.memory import MemoryEstimate, MemoryModel
    from autopeft.workers.memory.inputs import Input
    from autopeft.workers.model_sources import ModelSource

COMPONENTS = (
    "weights", "adapter", "gradients", "optimizer_state", "activations", "transients",
)  # fmt: skip

Size = Literal["smallest", "default", "largest"]
OnProgress = Callable[[str], None]

#: Larger batches are not looked for.
MOST_EXAMPLES = 65536
#: Outputs of a head, where the data have not told.
_SOME_OUTPUTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One size of one method.

    Attributes:
        method: Name of the method, or of several that only stand together.
        size: Which of the method's configurations it is, by trainable parameters.
        configuration: What is trained.
        num_trainable_parameters: Task head included.
        components: Bytes at the peak, see :class:`~autopeft.workers.memory.MemoryEstimate`.
        total_bytes: Their sum.
        phase: When the peak is reached.
        left_bytes: What is left of the memory, negative where it does not fit; None without
            a limit.
        largest_batch: Examples that fit in one part of a batch; 0 where not even one does; None
            without a limit.
        is_approximate: Whether a part could not be followed and was estimated from sizes.
    """

    method: str
    size: Size
    configuration: Configuration
    num_trainable_parameters: int
    components: Mapping[str, int]
    total_bytes: int
    phase: str
    left_bytes: int | None
    largest_batch: int | None
    is_approximate: bool

    @property
    def fits(self) -> bool | None:
        """Whether it fits; None without a limit."""
        return None if self.left_bytes is None else self.left_bytes >= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The estimate of one row beside an exact probe, at a batch that just fits.

    Attributes:
        method: Of the row.
        batch_size: Examples in one part of a batch.
        estimated_bytes: What the table builds on.
        exact_bytes: What following every tensor of the step gives.
    """

    method: str
    batch_size: int
    estimated_bytes: int
    exact_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What fits.

    Attributes:
        model: Public name of the model.
        task: What it is trained for.
        space: The space, in a word.
        batch_size: Examples in one part of a batch, as the job has it.
        tokens: Tokens of each example, padding included.
        dtype: Of the frozen weights.
        quantization: ``4bit`` or ``8bit``, or None.
        limit_bytes: The memory; None where none was given.
        rows: By method, then by size.
        check: A look at one row with exact accounting, where there was one to look at.
        notes: What was missing or left out, for people.
    """

    model: str
    task: str
    space: str
    batch_size: int
    tokens: int
    dtype: str
    quantization: str | None
    limit_bytes: int | None
    rows: tuple[Row, ...]
    check: Check | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        rows = []
        for row in self.rows:
            values = {name: getattr(row, name) for name in row.__slots__}
            values |= {"configuration": row.configuration.to_json(), "fits": row.fits}
            rows.append({**values, "components": dict(row.components)})
        return {
            **plain,
            "rows": rows,
            "check": None if self.check is None else asdict(self.check),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """What a training step of the job looks like."""

    config: Any
    shape: ModelShape
    space: SearchSpace
    task: str
    tokens: int
    inputs: Callable[[int], Mapping[str, Input]] | None
    notes: tuple[str, ...]


def make_plan(
    spec: JobSpec,
    *,
    limit_bytes: int | None = None,
    tokens: int | None = None,
    on_progress: OnProgress = lambda text: None,
) -> Plan:
    """Work out what fits.

    Args:
        spec: The job; :func:`~autopeft.service.job_spec.load_job` with ``shapes_only`` is enough.
        limit_bytes: The memory, where there is a limit.
        tokens: Tokens of each example; the data's longest batch where None, if the data and a
            tokenizer are at hand, else ``training.max_tokens``.
        on_progress: Told how far it is.

    Raises:
        AutopeftError: the model's configuration cannot be had, or the space does not fit it.
    """
    from autopeft.workers.memory import MemoryModel, step_dtypes

    step = _look(spec, tokens, on_progress)
    searched = step.space.training.default
    spec = spec.model_copy(update={"training": spec.training.updated(searched)})
    step = replace(step, shape=shape_under(step.shape, searched))
    batch_size = spec.training.micro_batch_size
    dtypes = step_dtypes(step.config, spec.model, spec.training.precision)
    optimizer = spec.training.optimizer
    models: dict[int, MemoryModel] = {}

    def model_for(examples: int) -> MemoryModel:
        if examples not in models:
            models[examples] = MemoryModel(
                step.config,
                step.shape,
                batch_size=examples,
                tokens=step.tokens,
                task=step.task,
                device="cuda" if limit_bytes is not None or spec.workers.gpus else "cpu",
                inputs=None if step.inputs is None else step.inputs(examples),
                accumulation=spec.training.gradient_accumulation,
                optimizer=optimizer,
                attention=spec.model.attention,
                saved_activations=spec.training.saved_activations,
                **dtypes,
            )
        return models[examples]

    chosen = list(sizes(step.space))
    found: list[tuple[str, Size, Configuration, MemoryEstimate]] = []
    for number, (name, size, configuration) in enumerate(chosen, start=1):
        on_progress(f"predicting memory: {number} of {len(chosen)}, {name}, {size}")
        found.append((name, size, configuration, model_for(batch_size).estimate(configuration)))
    lines = _Lines(model_for, batch_size, limit_bytes, [each[2] for each in found], on_progress)
    rows = []
    for name, size, configuration, estimate in found:
        total = estimate.total_bytes
        parameters = num_trained(step.shape, configuration.modules, optimizer)
        rows.append(
            Row(
                method=name,
                size=size,
                configuration=configuration,
                num_trainable_parameters=parameters + step.shape.num_head_parameters,
                components={key: estimate.components[key] for key in COMPONENTS},
                total_bytes=total,
                phase=str(getattr(estimate, "phase", "")),
                left_bytes=None if limit_bytes is None else limit_bytes - total,
                largest_batch=None if limit_bytes is None else lines.largest(configuration),
                is_approximate=estimate.is_approximate,
            )
        )
    stored = dtypes["weight_dtype"] or dtypes["dtype"]
    return Plan(
        model=step.shape.name,
        task=step.task,
        space=spec.space if isinstance(spec.space, str) else step.space.name,
        batch_size=batch_size,
        tokens=step.tokens,
        dtype=str(stored).removeprefix("torch."),
        quantization=step.shape.quantization,
        limit_bytes=limit_bytes,
        rows=tuple(rows),
        check=_checked(rows, lines, on_progress),
        notes=(*step.notes, *_told(step.space), *step.space.notes),
    )


def _told(space: SearchSpace) -> list[str]:
    """Say what stands for training settings that are searched."""
    if not space.training.varied:
        return []
    values = ", ".join(f"{name} {value}" for name, value in space.training.default)
    return [f"the space searches {', '.join(space.training.varied)}; shown with {values}"]


def sizes(space: SearchSpace) -> Iterator[tuple[str, Size, Configuration]]:
    """Yield the smallest, the default and the largest configuration of each method alone.

    Where methods only stand together, all of them. By trainable parameters; each dimension is
    taken to its end with the others at their defaults. Equal ones come once.
    """
    together = space.combine == "all"
    groups = [space.methods] if together else [(name,) for name in space.methods]
    for names in groups:
        seen = set()
        default = {n: {k: d.default for k, d in _domains(space, n)} for n in names}
        ends: dict[Size, Mapping[str, Mapping[str, Any]]] = {
            "smallest": _extreme(space, default, min),
            "default": default,
            "largest": _extreme(space, default, max),
        }
        for size, values in ends.items():
            configuration = _configuration(space, values)
            if configuration.modules not in seen:
                seen.add(configuration.modules)
                yield " + ".join(names), size, configuration


def _domains(space: SearchSpace, name: str) -> list[tuple[str, Domain]]:
    return list(space.parts[name].all_domains.items())


def _configuration(space: SearchSpace, values: Mapping[str, Mapping[str, Any]]) -> Configuration:
    rates = space.learning_rates(tuple(values))
    return space.composer.configuration(values, rates.position(rates.default))


def _extreme(
    space: SearchSpace,
    default: Mapping[str, Mapping[str, Any]],
    choose: Callable[..., Any],
) -> Mapping[str, Mapping[str, Any]]:
    """Return the default with every dimension at the end that has fewest or most parameters."""
    values = {name: dict(given) for name, given in default.items()}
    for name in values:
        for key, domain in _domains(space, name):

            def count(value: Any, name: str = name, key: str = key) -> int:
                changed = {**values, name: {**values[name], key: value}}
                return space.num_adapter_parameters(_configuration(space, changed))

            # The value there is comes first, so that it stays where the others make no difference.
            values[name][key] = choose([values[name][key], *_ends(domain)], key=count)
    return values


def _ends(domain: Domain) -> list[Any]:
    """Return the values of a dimension that can make a configuration smallest or largest."""
    if isinstance(domain, SubsetDomain):
        if domain.allowed is None:
            return [*((value,) for value in domain.values), domain.values]
        return [*sorted(domain.allowed, key=len)[:8], max(domain.allowed, key=len)]
    if isinstance(domain, ValueDomain):
        numbers = all(isinstance(v, int | float) for v in domain.values)
        return [domain.values[0], domain.values[-1]] if numbers else list(domain.values)
    return []


class _Lines:
    """The peak as a function of the batch size, for each configuration."""

    def __init__(
        self,
        model_for: Callable[[int], MemoryModel],
        batch_size: int,
        limit_bytes: int | None,
        configurations: Sequence[Configuration],
        on_progress: OnProgress,
    ) -> None:
        self._model_for = model_for
        self._limit = limit_bytes
        self._configurations = configurations
        self._on_progress = on_progress
        self._totals: dict[int, dict[Configuration, int]] = {}
        if limit_bytes is None:
            return
        self._evaluate(batch_size)
        fit = [c for c in configurations if self._totals[batch_size][c] <= limit_bytes]
        if batch_size > 1 and len(fit) < len(configurations):
            self._evaluate(1)
        guesses = sorted(self._guess(c, batch_size) for c in fit)
        if guesses:
            self._evaluate(max(batch_size + 1, guesses[len(guesses) // 2]))

    def _guess(self, configuration: Configuration, examples: int) -> int:
        """Return about how many examples fit, were all that a batch adds proportional to it."""
        assert self._limit is not None
        parts = self._model_for(examples).estimate(configuration).components
        grows = parts["activations"] + parts["transients"]
        fixed = parts["total"] - grows
        return min(MOST_EXAMPLES, int(examples * (self._limit - fixed) / max(1, grows)))

    def total(self, configuration: Configuration, examples: int) -> float:
        """Return the peak at a batch size."""
        points = sorted(self._totals)
        if examples in self._totals:
            return self._totals[examples][configuration]
        if len(points) == 1:
            return self._totals[points[0]][configuration]
        above = next((i for i, point in enumerate(points) if point > examples), len(points) - 1)
        left, right = points[max(0, above - 1)], points[max(1, above)]
        if examples < left:
            # Below the smallest the line would fall short of what is always there.
            return self._totals[left][configuration]
        low, high = self._totals[left][configuration], self._totals[right][configuration]
        return low + (high - low) * (examples - left) / (right - left)

    def largest(self, configuration: Configuration) -> int:
        """Return the largest batch that fits; 0 where not even one example does."""
        assert self._limit is not None
        if not self._totals or self.total(configuration, 1) > self._limit:
            return 0
        low, high = 1, 2
        while high <= MOST_EXAMPLES and self.total(configuration, high) <= self._limit:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            if self.total(configuration, middle) <= self._limit:
                low = middle
            else:
                high = middle
        return low

    def exact(self, configuration: Configuration, examples: int) -> int:
        """Return the peak by following every tensor of a step."""
        return self._model_for(examples).probe(configuration).total_bytes

    def _evaluate(self, examples: int) -> None:
        self._on_progress(f"predicting memory: batches of {examples}")
        model = self._model_for(examples)
        self._totals[examples] = {
            each: model.estimate(each).total_bytes for each in self._configurations
        }


def _checked(rows: Sequence[Row], lines: _Lines, on_progress: OnProgress) -> Check | None:
    """Probe the default of a method at its largest batch: LoRA where there is one."""
    candidates = [row for row in rows if row.largest_batch and row.size == "default"]
    if not candidates:
        return None
    row = next((row for row in candidates if row.method == "lora"), candidates[0])
    assert row.largest_batch is not None
    on_progress(f"checking {row.method} at its largest batch")
    return Check(
        method=row.method,
        batch_size=row.largest_batch,
        estimated_bytes=round(lines.total(row.configuration, row.largest_batch)),
        exact_bytes=lines.exact(row.configuration, row.largest_batch),
    )


def _look(spec: JobSpec, tokens: int | None, on_progress: OnProgress) -> _Step:
    """Find out what a step looks like: from the data where they are at hand, else from shapes."""
    from autopeft.workers.model_sources import is_at_hand, resolve_model

    is_path = (spec.base / Path(spec.model.name).expanduser()).exists()
    if not is_path and not spec.model.name.startswith("builtin:"):
        resolve_model(spec.model, spec.base)  # whether it can be a name of the hub
    notes: list[str] = []
    is_local = spec.data.name is None or spec.data.name.startswith("builtin:")
    if tokens is None and is_local and not _is_file(spec) and is_at_hand(spec.model, spec.base):
        try:
            return _examined(spec, on_progress)
        except AutopeftError as error:
            notes.append(f"the data did not tell how long examples are: {error.message}")
    elif tokens is None:
        notes.append("the data were not read, for which the model's tokenizer is needed")
    if tokens is None:
        tokens = spec.training.max_tokens
        notes.append(
            f"examples are taken to have {tokens} tokens, training.max_tokens; "
            "--tokens sets another number"
        )
    return _from_shapes(spec, tokens, notes, on_progress)


def _examined(spec: JobSpec, on_progress: OnProgress) -> _Step:
    from autopeft.service.examination import examine
    from autopeft.workers.memory import longest_inputs

    found = examine(spec, on_phase=on_progress)
    train, padding, task = found.encoded.train, found.encoded.pad_token_id, found.read.goal.task
    return _Step(
        config=found.model.config,
        shape=found.model.shape,
        space=found.space,
        task=task,
        tokens=found.tokens,
        inputs=lambda examples: longest_inputs(train, examples, padding, task),
        notes=(),
    )


def _from_shapes(spec: JobSpec, tokens: int, notes: list[str], on_progress: OnProgress) -> _Step:
    from dataclasses import replace

    from autopeft.service.examination import TASK_OF_BUILTIN_DATA
    from autopeft.workers.models import load_config, max_positions
    from autopeft.workers.shapes import model_shape
    from autopeft.workers.task_names import CAUSAL_LM, CLASSIFICATION
    from autopeft.workers.task_support import check_supports
    from autopeft.workers.tasks.base import TASKS

    on_progress("looking at the model")
    source = _source(spec)
    task = spec.task
    try:
        if task == "auto":
            task = TASK_OF_BUILTIN_DATA.get(spec.data.name or "", "auto")
        if task == "auto":
            published = load_config(source, 0).architectures or ()
            is_causal = any("CausalLM" in name or "LMHead" in name for name in published)
            task = CAUSAL_LM if is_causal else CLASSIFICATION
            notes.append(f"the task is taken to be {task}, by the model's architecture")
        outputs = _SOME_OUTPUTS if TASKS.get(task).has_head else 0
        config = load_config(source, outputs, None, task)
    except ModelError as error:
        raise _lacks_config(source, error) from error
    check_supports(source, config, task)
    shape = model_shape(source, config, task)
    most = max_positions(config)
    if most is not None and tokens > most:
        raise InvalidJobError(
            f"examples of {tokens} tokens do not fit {shape.name}, which takes at most {most}",
            hint=f"give --tokens {most} or less",
        )
    shape = replace(
        shape,
        num_free_positions=None if most is None else most - tokens,
        uses_packing=spec.training.packing,
        uses_gradient_checkpointing=spec.training.gradient_checkpointing,
    )
    return _Step(
        config=config,
        shape=shape,
        space=load_space(spec.space, shape, base=spec.base, training=job_training(spec.training)),
        task=task,
        tokens=tokens,
        inputs=None,
        notes=tuple(notes),
    )


def _is_file(spec: JobSpec) -> bool:
    return (spec.base / Path(spec.model.name).expanduser()).is_file()


def _source(spec: JobSpec) -> ModelSource:
    """Find the model, of which the configuration alone need be there."""
    from autopeft.workers.model_sources import is_at_hand, resolve_config

    name = spec.model.name
    if name.startswith("builtin:") and not is_at_hand(spec.model, spec.base):
        raise ModelError(
            f"{name} is not built yet, and a plan builds nothing",
            hint=f"autopeft build {name.removeprefix('builtin:')}",
        )
    return resolve_config(spec.model, spec.base)


def _lacks_config(source: ModelSource, error: ModelError) -> ModelError:
    """Say what a plan needs of a model that is not at hand."""
    if source.is_local:
        return error
    return ModelError(
        f"a plan needs the config.json of {source.public_name}, which cannot be had: "
        f"{error.message}",
        hint="save config.json from the model's page and name the file: model: config.json",
    )
