"""The seam ``Task``: what a job trains for, and how well a model does it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from autopeft.errors import DataError
from autopeft.naming import did_you_mean
from autopeft.registry import Registry
from autopeft.workers.dataset import DataSplits, SplitName

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelEncoding:
    """Labels as numbers a model can be trained on.

    Attributes:
        num_outputs: Width of the task head: the classes, or 1 for regression.
        id2label: Name of each class by its number; None where there are no classes.
        labels: Per split, ``n`` class numbers (``int64``) or target values (``float32``).
    """

    num_outputs: int
    id2label: tuple[str, ...] | None
    labels: Mapping[SplitName, NDArray[Any]]


class Task(ABC):
    """Turn labels into numbers, and a model's outputs into metrics.

    Contract:
        * A task holds no state; its constructor takes no arguments. Every method is a pure
          function, computed in float64, equal in any process.
        * ``metrics`` names what ``predictions_to_metrics`` returns, always all of it, and
          whether a greater value is better.
        * A single NaN or infinite output makes every metric NaN: such a model has diverged,
          and gets no partial credit. Outputs that are constant over the rows yield finite
          values (0 for a correlation).
        * The module imports neither torch nor scikit-learn; ``loss`` imports torch when called.
    """

    name: ClassVar[str]
    metrics: ClassVar[Mapping[str, bool]]
    default_metric: ClassVar[str]
    #: ``problem_type`` of a transformers model configuration.
    problem_type: ClassVar[str]

    @abstractmethod
    def encode_labels(self, splits: DataSplits) -> LabelEncoding:
        """Return the labels of every split as numbers.

        Raises:
            DataError: the labels do not fit the task.
        """

    @abstractmethod
    def predictions_to_metrics(
        self, outputs: NDArray[np.float32], labels: NDArray[Any]
    ) -> dict[str, float]:
        """Return every metric by name, each in its own orientation.

        Args:
            outputs: ``n x num_outputs`` raw outputs (logits, or values in natural units).
            labels: ``n`` numbers as :meth:`encode_labels` makes them.
        """

    @abstractmethod
    def constant_outputs(self, encoding: LabelEncoding) -> NDArray[np.float32]:
        """Return the ``num_outputs`` outputs of the best predictor that ignores its input.

        It is fitted to the training labels alone.
        """

    @abstractmethod
    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean training loss of a batch, a scalar in float32.

        Args:
            logits: ``b x num_outputs``, any floating dtype.
            labels: ``b`` numbers as :meth:`encode_labels` makes them.
        """

    def initial_outputs(self, train_labels: NDArray[Any]) -> NDArray[np.float32] | None:
        """Return the ``num_outputs`` outputs a fresh task head should give, as its bias.

        None starts the bias at zero, which suits logits.
        """
        return None

    def chance_score(self, encoding: LabelEncoding, metric: str) -> float:
        """Return the oriented score on validation of a predictor that ignores its input."""
        labels = encoding.labels["validation"]
        outputs = np.tile(self.constant_outputs(encoding), (len(labels), 1))
        return oriented(self, metric, self.predictions_to_metrics(outputs, labels)[metric])

    def ideal_score(self, metric: str) -> float:
        """Return the oriented score of a predictor that is always right."""
        return 1.0 if _greater_is_better(self, metric) else 0.0


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
    where it holds classes; see :func:`autopeft.workers.data.labels.looks_like_classes`.
    """
    amounts = all(isinstance(label, float) for label in splits.splits["train"].label)
    return "regression" if amounts else "classification"


def _greater_is_better(task: Task, metric: str) -> bool:
    if metric not in task.metrics:
        raise DataError(
            f"task {task.name} has no metric {metric!r}{did_you_mean(metric, task.metrics)}",
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
