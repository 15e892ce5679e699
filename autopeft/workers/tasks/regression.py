"""Regression: one number for each text, in its natural units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from autopeft.errors import DataError
from autopeft.workers.dataset import SPLIT_NAMES, DataSplits
from autopeft.workers.tasks.base import TASKS, LabelEncoding, LabelledTask, check_outputs
from autopeft.workers.tasks.metric_names import DEFAULT_METRICS, METRICS_BY_TASK, REGRESSION

if TYPE_CHECKING:
    import torch


@TASKS.register(REGRESSION)
class Regression(LabelledTask):
    """Mean squared error; targets are not rescaled, so that an export predicts natural units."""

    name: ClassVar[str] = REGRESSION
    metrics = METRICS_BY_TASK[REGRESSION]
    default_metric = DEFAULT_METRICS[REGRESSION]
    problem_type = "regression"
    auto_class = "AutoModelForSequenceClassification"
    peft_task_type = "SEQ_CLS"
    label_kind = "amounts"

    def initial_outputs(self, train_labels: NDArray[Any]) -> NDArray[np.float32]:
        """Return the mean target: a short training then spends no steps on finding it."""
        return np.array([np.mean(train_labels)], dtype=np.float32)

    def encode_labels(self, splits: DataSplits) -> LabelEncoding:
        """Return the targets as ``float32``."""
        labels: dict[Any, NDArray[Any]] = {}
        for split in SPLIT_NAMES:
            values = splits.splits[split].label
            if not all(isinstance(value, int | float) for value in values):
                strange = next(value for value in values if not isinstance(value, int | float))
                raise DataError(
                    f"task regression expects numbers, split {split} has the label {strange!r}",
                    hint="task: classification, or name another column in data.columns.label",
                )
            labels[split] = np.array(values, dtype=np.float32)
        return LabelEncoding(num_outputs=1, id2label=None, labels=labels)

    def predictions_to_metrics(
        self, outputs: NDArray[np.float32], labels: NDArray[Any]
    ) -> dict[str, float]:
        """Return Spearman and Pearson correlation and the mean squared error."""
        check_outputs(outputs, labels, num_outputs=1)
        predicted, target = outputs[:, 0].astype(np.float64), np.asarray(labels, dtype=np.float64)
        if not np.all(np.isfinite(predicted)):
            return dict.fromkeys(self.metrics, float("nan"))
        return {
            "spearman": _correlation(_ranks(predicted), _ranks(target)),
            "pearson": _correlation(predicted, target),
            "loss": float(np.mean((predicted - target) ** 2)),
        }

    def constant_outputs(self, encoding: LabelEncoding) -> NDArray[np.float32]:
        """Return the mean training target."""
        mean = np.mean(encoding.labels["train"], dtype=np.float64)
        return np.array([mean], dtype=np.float32)

    def loss(self, outputs: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the mean squared error."""
        import torch.nn.functional as F

        return F.mse_loss(outputs.logits.float().squeeze(-1), batch["labels"].float())


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ranks from 1; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_ranks: NDArray[np.float64] = (2 * last - counts + 1) / 2
    return mean_ranks[inverse]


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return Pearson's correlation; 0 where either side is constant."""
    if np.all(a == a[0]) or np.all(b == b[0]):
        return 0.0
    # Scaled before the products, so that neither 1e200 nor 1e-200 leaves the range of float64.
    a, b = a / np.max(np.abs(a)), b / np.max(np.abs(b))
    a, b = a - a.mean(), b - b.mean()
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return float(np.clip(a @ b / norm, -1.0, 1.0)) if norm > 0 else 0.0
