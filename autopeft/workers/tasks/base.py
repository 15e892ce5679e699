"""The seam ``Task``: what a job trains for, and how well a model does it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from autopeft.errors import DataError, InvalidJobError
from autopeft.naming import or_nearest
from autopeft.registry import Registry
from autopeft.workers.dataset import DataSplits, EncodedData, EncodedSplit, Rows, SplitName
from autopeft.workers.tasks.metric_names import CAUSAL_LM, CLASSIFICATION, REGRESSION

if TYPE_CHECKING:
    import torch

    from autopeft.workers.data.columns import ChosenColumns
    from autopeft.workers.data.table import Table
    from autopeft.workers.settings import Columns


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelEncoding:
    """Labels as numbers a model can be trained on.

    Attributes:
        num_outputs: Width of the task head: the classes, 1 for regression, 0 without a head.
        id2label: Name of each class by its number; None where there are no classes.
        labels: Per split, ``n`` class numbers (``int64``) or target values (``float32``).
    """

    num_outputs: int
    id2label: tuple[str, ...] | None
    labels: Mapping[SplitName, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodingSettings:
    """How examples are made.

    Attributes:
        max_tokens: Longer examples are cut, special tokens included.
        packing: Whether several training examples share a sequence.
        chat_template: Writes conversations; None takes the tokenizer's own.
    """

    max_tokens: int
    packing: bool = False
    chat_template: str | None = None


class Task(ABC):
    """Turn rows into examples, labels into numbers, and a model's outputs into metrics.

    Contract:
        * A task holds no state; its constructor takes no arguments. Every method is a pure
          function, metrics are computed in float64, equal in any process.
        * ``metrics`` names what ``predictions_to_metrics`` returns, always all of it, and
          whether a greater value is better.
        * A single NaN or infinite output makes every metric NaN: such a model has diverged,
          and gets no partial credit. Outputs that are constant over the rows yield finite
          values (0 for a correlation).
        * What :meth:`reduce` keeps of an example does not depend on the other examples of the
          batch, up to rounding.
        * The module imports neither torch nor scikit-learn; what computes on tensors imports
          torch when called.
    """

    name: ClassVar[str]
    metrics: ClassVar[Mapping[str, bool]]
    default_metric: ClassVar[str]
    #: ``problem_type`` of a transformers model configuration; None leaves it open.
    problem_type: ClassVar[str | None] = None
    #: Class of transformers that loads a model with the task's head.
    auto_class: ClassVar[str]
    #: ``task_type`` of a PEFT configuration; None where PEFT has none.
    peft_task_type: ClassVar[str | None]
    #: Whether the model has a head that is new for the task and is trained in full.
    has_head: ClassVar[bool] = True
    modality: ClassVar[Literal["text", "image", "audio"]] = "text"
    #: ``classes`` are known from training and cut in proportion; ``amounts`` are numbers;
    #: ``none`` are in no column of their own; ``own`` are read by the task itself.
    label_kind: ClassVar[Literal["classes", "amounts", "none", "own"]]

    # Reading rows.

    def choose_columns(self, table: Table, wanted: Columns) -> ChosenColumns:
        """Return the columns the user named, and infer those not named.

        Raises:
            DataError: a named column does not exist, or the choice is not clear.
        """
        from autopeft.workers.data.columns import choose_columns

        return choose_columns(table, wanted)

    def clean(self, table: Table, columns: ChosenColumns) -> tuple[Table, int]:
        """Return the rows that have all their inputs, and how many have not.

        Raises:
            DataError: an input is of the wrong kind; the message names its place.
        """
        from autopeft.workers.data.texts import without_empty_texts

        return without_empty_texts(table, columns)

    def make_rows(self, table: Table, columns: ChosenColumns, labels: list[Any]) -> Rows:
        """Return cleaned columns by role, beside labels that are already uniform."""
        from autopeft.workers.data.texts import make_rows

        return make_rows(table, columns, labels)

    def keys(self, rows: Rows) -> list[str]:
        """Return for each row what rows share that must not be parted by a cut."""
        from autopeft.workers.data.splitting import text_keys

        return text_keys(rows)

    def what_is_equal(self, rows: Rows) -> str:
        """Say for a message what rows of equal :meth:`keys` have in common: ``of ...``."""
        return "of equal text"

    # Numbers.

    @abstractmethod
    def encode_labels(self, splits: DataSplits) -> LabelEncoding:
        """Return the labels of every split as numbers.

        Raises:
            DataError: the labels do not fit the task.
        """

    def encode(
        self, rows: Rows, labels: NDArray[Any], processor: Any, settings: EncodingSettings
    ) -> EncodedSplit:
        """Return rows as numbers that a model takes.

        Args:
            rows: The rows.
            labels: Their labels as :meth:`encode_labels` makes them.
            processor: The model's tokenizer, or its image or audio processor.
            settings: How examples are made.

        Raises:
            AutopeftError: rows and processor do not go together.
        """
        from autopeft.workers.data.tokenization import encode_texts

        return encode_texts(rows, labels, processor, settings.max_tokens)

    def pack(self, split: EncodedSplit, settings: EncodingSettings) -> EncodedSplit:
        """Return training examples as they are trained on: packed, where settings ask for it.

        Raises:
            InvalidJobError: examples of this task cannot share a sequence.
        """
        if settings.packing:
            raise InvalidJobError(
                f"training.packing is for causal language models; the task is {self.name}",
                hint="leave training.packing out",
            )
        return split

    def initial_outputs(self, train_labels: NDArray[Any]) -> NDArray[np.float32] | None:
        """Return the ``num_outputs`` outputs a fresh task head should give, as its bias.

        None starts the bias at zero, which suits logits.
        """
        return None

    # Tensors.

    def index_tensors(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the places that :meth:`forward` and :meth:`loss` look at in a batch, by name.

        Where these follow from a batch's numbers, a batch without numbers brings them itself, so
        that a step on it has the sizes of a real one. By default nothing follows from numbers.

        Args:
            batch: With numbers.

        Returns:
            Tensors by names that are neither fields of a split nor arguments of a model.
        """
        return {}

    def forward(self, model: Any, batch: Mapping[str, torch.Tensor]) -> Any:
        """Return the model's outputs for a collated batch.

        Args:
            model: A model of transformers, with or without PEFT around it.
            batch: What :func:`autopeft.workers.data.collate` makes, as tensors.
        """
        return model(**{name: tensor for name, tensor in batch.items() if name != "labels"})

    @abstractmethod
    def loss(self, outputs: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the mean training loss of a batch, a scalar in float32.

        Args:
            outputs: What :meth:`forward` returned; floats of any dtype.
            batch: The batch it was given.
        """

    def num_targets(self, batch: Mapping[str, torch.Tensor]) -> int:
        """Return how many terms :meth:`loss` is the mean of: the batch's weight among others."""
        return len(batch["labels"])

    def reduce(self, outputs: Any, batch: Mapping[str, torch.Tensor]) -> NDArray[np.float32]:
        """Return what evaluation keeps, ``b x k``, one row an example: by default the logits."""
        kept: NDArray[np.float32] = outputs.logits.detach().float().cpu().numpy()
        return kept

    # Scores.

    @abstractmethod
    def predictions_to_metrics(
        self, outputs: NDArray[np.float32], labels: NDArray[Any]
    ) -> dict[str, float]:
        """Return every metric by name, each in its own orientation.

        Args:
            outputs: ``n x k`` raw outputs as :meth:`reduce` keeps them (logits, values in
                natural units, sums of losses).
            labels: ``n`` numbers, the labels of the encoded split.
        """

    @abstractmethod
    def chance_score(
        self, encoding: LabelEncoding, metric: str, data: EncodedData | None = None
    ) -> float:
        """Return the oriented score on validation of a predictor that ignores its input.

        It is fitted to the training labels alone.

        Args:
            encoding: Labels as numbers.
            metric: One of the task's metrics.
            data: The same rows encoded; a language model's labels are its tokens.
        """

    def ideal_score(self, metric: str) -> float:
        """Return the oriented score of a predictor that is always right."""
        return 1.0 if _greater_is_better(self, metric) else 0.0

    def mismatches(
        self, rebuilt: NDArray[np.float32], outputs: NDArray[np.float32], rounding: float
    ) -> NDArray[np.bool_]:
        """Return which of ``n`` examples two models predict differently.

        Args:
            rebuilt: ``n x k`` outputs of one.
            outputs: ``n x k`` outputs of the other.
            rounding: Differences below this part of the outputs' standard deviation are
                rounding.
        """
        tolerance = rounding * outputs.std(axis=0)
        differs: NDArray[np.bool_] = np.any(np.abs(rebuilt - outputs) > tolerance, axis=1)
        return differs


class LabelledTask(Task):
    """A task with one label an example, whose outputs can be compared with constant ones."""

    @abstractmethod
    def constant_outputs(self, encoding: LabelEncoding) -> NDArray[np.float32]:
        """Return the ``num_outputs`` outputs of the best predictor that ignores its input.

        It is fitted to the training labels alone.
        """

    def chance_score(
        self, encoding: LabelEncoding, metric: str, data: EncodedData | None = None
    ) -> float:
        """Return the oriented score on validation of :meth:`constant_outputs`."""
        labels = encoding.labels["validation"]
        outputs = np.tile(self.constant_outputs(encoding), (len(labels), 1))
        return oriented(self, metric, self.predictions_to_metrics(outputs, labels)[metric])


TASKS: Registry[Task] = Registry("tasks", package="autopeft.workers.tasks")


def oriented(task: Task | str, metric: str, value: float) -> float:
    """Return ``value`` of ``metric`` as a score, where more is better.

    Raises:
        DataError: the task has no such metric.
    """
    chosen = TASKS.get(task)() if isinstance(task, str) else task
    return value if _greater_is_better(chosen, metric) else -value


def infer_task(splits: DataSplits) -> str:
    """Return the task that labels read under ``task: auto`` stand for.

    ``load_splits`` leaves floats where the column holds amounts, and strings or integers
    where it holds classes; see :func:`autopeft.workers.data.labels.looks_like_classes`. Rows
    of messages, or of prompts and completions, have no labels. Words with tags, choices,
    pictures and recordings tell by themselves.
    """
    from autopeft.workers.data.task_columns import TASK_OF_ROLE

    if splits.label_column is None:
        return CAUSAL_LM
    for role in splits.splits["train"].columns:
        if role in TASK_OF_ROLE:
            return TASK_OF_ROLE[role]
    amounts = all(isinstance(label, float) for label in splits.splits["train"].label)
    return REGRESSION if amounts else CLASSIFICATION


def _greater_is_better(task: Task, metric: str) -> bool:
    if metric not in task.metrics:
        raise DataError(
            f"task {task.name} has no metric {metric!r}{or_nearest(metric, task.metrics)}",
            hint=f"choose one of: {', '.join(task.metrics)}",
        )
    return task.metrics[metric]


def check_outputs(
    outputs: NDArray[np.float32], labels: NDArray[Any], num_outputs: int | None = None
) -> None:
    """Raise ``ValueError`` unless there is one row of outputs for each of at least one label."""
    if outputs.ndim != 2 or len(outputs) != len(labels) or len(labels) == 0:
        raise ValueError(
            f"expected outputs of shape n x num_outputs for n >= 1 labels, received "
            f"{outputs.shape} for {len(labels)} labels"
        )
    if num_outputs is not None and outputs.shape[1] != num_outputs:
        raise ValueError(f"expected {num_outputs} outputs a row, received {outputs.shape[1]}")
