"""A worker: the frozen base model and the tokenised data, ready to run any segment."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from autopeft.errors import ModelError
from autopeft.records import (
    RETENTION,
    TRAIN_SECONDS,
    FailureKind,
    MeasuredMemory,
    Measurement,
    ModelShape,
    Segment,
    SegmentDone,
    SegmentEvent,
    SegmentFailed,
    Trial,
)
from autopeft.workers.adapter_tensors import adapter_tensors
from autopeft.workers.averaging import TailAverage, average_of
from autopeft.workers.checkpoints import (
    Resume,
    load_adapter,
    read_checkpoint,
    write_checkpoint,
)
from autopeft.workers.data.batches import PACKED_BY
from autopeft.workers.data.packing import check_model_keeps_examples_apart
from autopeft.workers.dataset import INPUT_IDS, EncodedData, EncodedSplit
from autopeft.workers.generation import FILE as GENERATED_FILE
from autopeft.workers.generation import GenerationPlan, score_answers
from autopeft.workers.gradient_checkpointing import checkpoint_layers
from autopeft.workers.hooks import Hooks, hooks_of
from autopeft.workers.injection import inject
from autopeft.workers.memory.measuring import (
    CudaMemory,
    accounted_bytes,
    longest_batches,
    resident_bytes,
    take_longest_step,
)
from autopeft.workers.models import ModelSource, load_config, load_model, load_tokenizer
from autopeft.workers.optimizers import (
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
)
from autopeft.workers.retention import Retention
from autopeft.workers.saved_activations import keep_in_4_bits
from autopeft.workers.schedules import branch_factor, num_branch_steps
from autopeft.workers.settings import Precision, TrainingSettings, WorkerSettings
from autopeft.workers.tasks.base import TASKS, oriented
from autopeft.workers.training import (
    DivergedError,
    autocast,
    evaluate,
    train_segment,
)

TRAIN_LOSS = "train_loss"
#: Steps that were trained on a branch and thrown away, on top of those of the trial.
BRANCH_STEPS = "branch_steps"

_OUT_OF_MEMORY_PHRASES = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "unable to allocate",
    "bad_alloc",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """What every worker of a job holds: found once by the driver, sent to each.

    Attributes:
        source: The base model.
        data: Training and validation rows, encoded.
        id2label: Class names by class number; None for regression.
        shape: Shape of the base model with the task's head.
        generation: Answers to generate and score at the last step, if any.
        probe: General text that retention is measured on at the last step, if it is.
    """

    source: ModelSource
    data: EncodedData
    id2label: tuple[str, ...] | None
    shape: ModelShape
    generation: GenerationPlan | None = None
    probe: EncodedSplit | None = None


class OverLimitError(MemoryError):
    """A step on the CPU took more than the worker may use.

    Attributes:
        needed_bytes: What it took.
    """

    def __init__(self, needed_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"a step with the longest examples took {needed_bytes / 2**20:,.1f} MiB, the worker "
            f"has {limit_bytes / 2**20:,.1f} MiB"
        )
        self.needed_bytes = needed_bytes


class Worker:
    """Run segments, one at a time; nothing but the frozen base and the data outlives one.

    Args:
        settings: Model, task, training and the checkpoint folder, all resolved.
        plan: Data and shapes.
        device: ``cpu`` or ``cuda``; without a CUDA device the CPU is taken.

    Raises:
        ModelError: the base model cannot be loaded, the tokens are not its own, or it does not
            keep examples apart that share a sequence.
    """

    def __init__(self, settings: WorkerSettings, plan: WorkerPlan, *, device: str = "cpu") -> None:
        torch.set_num_threads(settings.num_threads)
        self._settings = settings
        self._plan = plan
        self._task = TASKS.get(settings.task)()
        has_device = device == "cpu" or torch.cuda.is_available()
        self.device = torch.device(device if has_device else "cpu")
        config = load_config(
            plan.source,
            settings.num_outputs,
            plan.id2label,
            settings.task,
            pad_token_id=plan.data.pad_token_id if self._task.modality == "text" else None,
        )
        splits = (plan.data.train, plan.data.validation)
        tokens = [s.fields[INPUT_IDS].values for s in splits if INPUT_IDS in s.fields]
        largest = max((int(values.max()) for values in tokens), default=-1)
        if tokens and largest >= config.vocab_size:
            raise ModelError(
                f"the tokenizer yields token {largest}, but {plan.source.public_name} knows only "
                f"{config.vocab_size} tokens",
                hint="model and tokenizer do not belong together; check the model's folder",
            )
        self._cuda = CudaMemory(self.device) if self.device.type == "cuda" else None
        if self._cuda is not None and settings.memory_bytes is not None:
            self._cuda.limit(settings.memory_bytes)
        self._base = load_model(plan.source, config, task=settings.task, device=self.device)
        if self._cuda is not None:
            self._cuda.base_is_loaded()
        self._tokenizer: Any = None
        self._retention: dict[Precision, Retention] = {}
        if PACKED_BY in plan.data.train.fields:
            some_tokens = plan.data.train.fields[INPUT_IDS].values[:12].tolist()
            check_model_keeps_examples_apart(self._base, some_tokens)

    def run(self, segment: Segment) -> SegmentEvent:
        """Train and evaluate a segment, write its checkpoint, and say what became of it.

        Never raises for what training, memory or files do: such failures are classified.
        """
        try:
            return SegmentDone(segment=segment, measurement=self._run(segment))
        except AssertionError:
            raise
        except Exception as error:  # a worker reports whatever went wrong and lives on
            kind = classify(error)
            ran_out = kind is FailureKind.OUT_OF_MEMORY
            return SegmentFailed(
                segment=segment,
                kind=kind,
                message=describe(error),
                least_memory_bytes=self._least_memory_bytes(error) if ran_out else None,
            )
        finally:
            if self._cuda is not None:
                self._cuda.tidy()

    def _least_memory_bytes(self, error: BaseException) -> int | None:
        """Return what a segment that ran out of memory needs at least; None if that is unknown."""
        if isinstance(error, OverLimitError):
            return error.needed_bytes
        if self._cuda is None:
            return None
        peaks = self._cuda.peaks()
        return max(peaks.peak_bytes, peaks.reserved_bytes or 0, self._settings.memory_bytes or 0)

    def _run(self, segment: Segment) -> Measurement:
        started, cpu_started = time.monotonic(), time.process_time()
        trial, plan = segment.trial, self._plan
        training = self._training(trial)
        assert 0 <= segment.from_step < segment.to_step <= training.steps, segment
        assert (segment.checkpoint is None) == (segment.from_step == 0), segment
        if self._cuda is not None:
            self._cuda.begin()
        memory = self._longest_step(trial) if segment.from_step == 0 else None
        model, optimizer, hooks = self._build(trial)
        average = average_of(model, training)
        train_seconds = 0.0
        if segment.checkpoint is not None:
            checkpoint = read_checkpoint(self._settings.checkpoints, segment.checkpoint)
            load_adapter(model, plan.shape, checkpoint)
            load_optimizer_tensors(model, optimizer, checkpoint.optimizer)
            if average is not None:
                average.load(checkpoint.average)
            train_seconds = checkpoint.train_seconds
        train = partial(
            train_segment,
            model,
            optimizer,
            plan.data.train,
            self._task,
            training,
            learning_rate=trial.configuration.learning_rate,
            seed=trial.seed,
            pad_token_id=plan.data.pad_token_id,
            hooks=hooks,
        )
        started_training = time.monotonic()
        train_loss = train(from_step=segment.from_step, to_step=segment.to_step, average=average)
        train_seconds += time.monotonic() - started_training
        # What training goes on from; what is scored may be something else from here on.
        state = _stored(optimizer_tensors(model, optimizer))
        resume = self._resume(model, average, training, segment.to_step)
        num_branch = num_branch_steps(segment.to_step, training)
        if num_branch:
            end = segment.to_step + num_branch
            factor = partial(branch_factor, start=segment.to_step)
            train(from_step=segment.to_step, to_step=end, factor=factor)
        if average is not None:
            average.put_in_place()
        if self._cuda is not None:
            memory = self._cuda.peaks()

        outputs = evaluate(
            model,
            plan.data.validation,
            self._task,
            batch_size=training.evaluation_batch_size,
            pad_token_id=plan.data.pad_token_id,
            precision=training.precision,
        )
        labels = plan.data.validation.labels
        metrics = self._task.predictions_to_metrics(outputs, labels)
        texts: dict[str, str] = {}
        if segment.to_step == training.steps:
            last, texts = self._at_last_step(model, training.precision)
            metrics = {**metrics, **last}
        name = write_checkpoint(
            self._settings.checkpoints,
            model,
            plan.shape,
            trial=trial.number,
            step=segment.to_step,
            seed=trial.seed,
            configuration=trial.configuration,
            optimizer=state,
            outputs=outputs,
            labels=labels,
            train_seconds=train_seconds,
            texts=texts,
            resume=resume,
        )
        own = {TRAIN_LOSS: train_loss, TRAIN_SECONDS: train_seconds}
        if num_branch:
            own[BRANCH_STEPS] = float(num_branch)
        return Measurement(
            trial=trial.number,
            step=segment.to_step,
            score=oriented(self._task, self._settings.metric, metrics[self._settings.metric]),
            metrics={**metrics, **own},
            seconds=time.monotonic() - started,
            memory_bytes=None if memory is None else memory.peak_bytes,
            memory=memory,
            checkpoint=name,
            cpu_seconds=time.process_time() - cpu_started,
        )

    def _training(self, trial: Trial) -> TrainingSettings:
        """Return the job's training settings with those of the trial's configuration."""
        return self._settings.training.updated(trial.configuration.training)

    def _build(self, trial: Trial) -> tuple[Any, torch.optim.Optimizer, Hooks]:
        """Return a trial's model at its start, its optimiser, and what its methods ask for."""
        training = self._training(trial)
        model = inject(
            self._base,
            trial.configuration,
            self._plan.shape,
            trial.seed,
            initial_outputs=self._task.initial_outputs(self._plan.data.train.labels),
        )
        if training.gradient_checkpointing:
            checkpoint_layers(model)
        if training.saved_activations == "4bit":
            keep_in_4_bits(model)
        hooks = hooks_of(trial.configuration)
        optimizer = make_optimizer(model, trial.configuration.learning_rate, training, hooks)
        return model, optimizer, hooks

    def _resume(
        self, model: Any, average: TailAverage | None, training: TrainingSettings, step: int
    ) -> Resume | None:
        """Return a copy of the state that training goes on from, where it is not what is scored."""
        if average is None and not num_branch_steps(step, training):
            return None
        groups = adapter_tensors(model, self._plan.shape.head_paths)
        return Resume(
            weights={group: _stored(tensors) for group, tensors in groups.items()},
            average={} if average is None else _stored(average.tensors),
        )

    def _longest_step(self, trial: Trial) -> MeasuredMemory | None:
        """Take the step that needs most, on a model of its own; return its memory on the CPU.

        On CUDA it is part of the segment's peaks. Running out of memory in it is the trial's own
        failure; any other error costs the measurement alone, and a warning tells of it.
        """
        training, plan = self._training(trial), self._plan
        model, optimizer, hooks = self._build(trial)
        batches = longest_batches(plan.data.train, training, plan.data.pad_token_id)
        step = (model, optimizer, batches, self._task, training, hooks)
        try:
            if self._cuda is not None:
                take_longest_step(*step)
                return None
            needed = accounted_bytes(*step)
        except Exception as error:
            if classify(error) is FailureKind.OUT_OF_MEMORY:
                raise
            warnings.warn(
                f"the memory of trial {trial.number} could not be measured: {describe(error)}",
                stacklevel=2,
            )
            return None
        limit = self._settings.memory_bytes
        if limit is not None and needed > limit:
            raise OverLimitError(needed, limit)
        return MeasuredMemory(
            kind="accounted",
            peak_bytes=needed,
            base_bytes=resident_bytes(self._base),
        )

    def _at_last_step(
        self, model: Any, precision: Precision
    ) -> tuple[dict[str, float], dict[str, str]]:
        """Return what is measured of a trial trained to the end, and files to keep beside it."""
        metrics, texts = {}, {}
        if (plan := self._plan.generation) is not None:
            if self._tokenizer is None:
                self._tokenizer = load_tokenizer(self._plan.source)
            cast = autocast(model, precision)
            score, answers = score_answers(model, plan, self._tokenizer, cast)
            metrics[plan.metric.name] = score
            texts[GENERATED_FILE] = answers
        if (probe := self._plan.probe) is not None:
            if precision not in self._retention:
                loss = partial(self._probe_loss, precision=precision)
                self._retention[precision] = Retention(probe, loss, self._base)
            metrics[RETENTION] = self._retention[precision].rise(model)
        return metrics, texts

    def _probe_loss(self, model: Any, probe: EncodedSplit, precision: Precision) -> float:
        outputs = evaluate(
            model,
            probe,
            self._task,
            batch_size=self._settings.training.evaluation_batch_size,
            pad_token_id=self._plan.data.pad_token_id,
            precision=precision,
        )
        return self._task.predictions_to_metrics(outputs, probe.labels)["loss"]


def _stored(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return copies on the CPU, which no later step changes."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def classify(error: BaseException) -> FailureKind:
    """Return the class of what a segment raised."""
    if isinstance(error, DivergedError):
        return FailureKind.DIVERGED
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return FailureKind.OUT_OF_MEMORY
    text = str(error).casefold()
    if isinstance(error, RuntimeError | OSError) and any(
        phrase in text for phrase in _OUT_OF_MEMORY_PHRASES
    ):
        return FailureKind.OUT_OF_MEMORY
    return FailureKind.ERROR


def describe(error: BaseException) -> str:
    """Return an exception in one line for people."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else "no message"
    return text if isinstance(error, DivergedError) else f"{type(error).__name__}: {text}"
