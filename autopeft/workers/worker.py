"""A worker: the frozen base model and the tokenised data, ready to run any segment."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from autopeft.errors import ModelError
from autopeft.records import (
    FailureKind,
    Measurement,
    ModelShape,
    Segment,
    SegmentDone,
    SegmentEvent,
    SegmentFailed,
)
from autopeft.workers.checkpoints import load_adapter, read_checkpoint, write_checkpoint
from autopeft.workers.dataset import TokenizedData
from autopeft.workers.injection import inject
from autopeft.workers.models import ModelSource, load_config, load_model
from autopeft.workers.settings import WorkerSettings
from autopeft.workers.tasks.base import TASKS, oriented
from autopeft.workers.training import (
    DivergedError,
    evaluate,
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    train_segment,
)

TRAIN_LOSS = "train_loss"

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
        data: Training and validation rows as tokens.
        id2label: Class names by class number; None for regression.
        shape: Shape of the base model with the task's head.
    """

    source: ModelSource
    data: TokenizedData
    id2label: tuple[str, ...] | None
    shape: ModelShape


class Worker:
    """Run segments, one at a time; nothing but the frozen base and the data outlives one.

    Args:
        settings: Model, task, training and the checkpoint folder, all resolved.
        plan: Data and shapes.
        device: ``cpu`` or ``cuda``; without a CUDA device the CPU is taken.

    Raises:
        ModelError: the base model cannot be loaded, or the tokens are not its own.
    """

    def __init__(self, settings: WorkerSettings, plan: WorkerPlan, *, device: str = "cpu") -> None:
        torch.set_num_threads(settings.num_threads)
        self._settings = settings
        self._plan = plan
        self._task = TASKS.get(settings.task)()
        has_device = device == "cpu" or torch.cuda.is_available()
        self.device = torch.device(device if has_device else "cpu")
        config = load_config(plan.source, settings.num_outputs, plan.id2label, settings.task)
        largest = max(int(s.input_ids.max()) for s in (plan.data.train, plan.data.validation))
        if largest >= config.vocab_size:
            raise ModelError(
                f"the tokenizer yields token {largest}, but {plan.source.public_name} knows only "
                f"{config.vocab_size} tokens",
                hint="model and tokenizer do not belong together; check the model's folder",
            )
        self._base = load_model(plan.source, config, device=self.device)

    def run(self, segment: Segment) -> SegmentEvent:
        """Train and evaluate a segment, write its checkpoint, and say what became of it.

        Never raises for what training, memory or files do: such failures are classified.
        """
        try:
            return SegmentDone(segment=segment, measurement=self._run(segment))
        except AssertionError:
            raise
        except Exception as error:  # a worker reports whatever went wrong and lives on
            return SegmentFailed(segment=segment, kind=classify(error), message=describe(error))
        finally:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _run(self, segment: Segment) -> Measurement:
        started = time.monotonic()
        trial, plan, training = segment.trial, self._plan, self._settings.training
        assert 0 <= segment.from_step < segment.to_step <= training.steps, segment
        assert (segment.checkpoint is None) == (segment.from_step == 0), segment
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

        model = inject(
            self._base,
            trial.configuration,
            plan.shape,
            trial.seed,
            initial_outputs=self._task.initial_outputs(plan.data.train.labels),
        )
        optimizer = make_optimizer(model, trial.configuration.learning_rate, training)
        if segment.checkpoint is not None:
            checkpoint = read_checkpoint(self._settings.checkpoints, segment.checkpoint)
            load_adapter(model, plan.shape, checkpoint)
            load_optimizer_tensors(model, optimizer, checkpoint.optimizer)
        train_loss = train_segment(
            model,
            optimizer,
            plan.data.train,
            self._task,
            training,
            learning_rate=trial.configuration.learning_rate,
            seed=trial.seed,
            from_step=segment.from_step,
            to_step=segment.to_step,
            pad_token_id=plan.data.pad_token_id,
        )
        memory_bytes = None
        if self.device.type == "cuda":
            memory_bytes = torch.cuda.max_memory_allocated(self.device)

        outputs = evaluate(
            model,
            plan.data.validation,
            batch_size=training.evaluation_batch_size,
            pad_token_id=plan.data.pad_token_id,
        )
        labels = plan.data.validation.labels
        metrics = self._task.predictions_to_metrics(outputs, labels)
        name = write_checkpoint(
            self._settings.checkpoints,
            model,
            plan.shape,
            trial=trial.number,
            step=segment.to_step,
            seed=trial.seed,
            configuration=trial.configuration,
            optimizer=optimizer_tensors(model, optimizer),
            outputs=outputs,
            labels=labels,
        )
        return Measurement(
            trial=trial.number,
            step=segment.to_step,
            score=oriented(self._task, self._settings.metric, metrics[self._settings.metric]),
            metrics={**metrics, TRAIN_LOSS: train_loss},
            seconds=time.monotonic() - started,
            memory_bytes=memory_bytes,
            checkpoint=name,
        )


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
