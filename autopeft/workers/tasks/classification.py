"""Classification: one of several classes for each text.

``f1`` is the macro average: the unweighted mean of the F1 of each class that occurs among
labels or predictions, for two classes as for many. It does not depend on which class is
called positive; GLUE's F1 for MRPC and QQP, which scores the positive class alone, is
therefore not the same figure. Of equal outputs the lowest class number wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from autopeft.errors import DataError
from autopeft.workers.dataset import SPLIT_NAMES, DataSplits
from autopeft.workers.tasks.base import TASKS, LabelEncoding, LabelledTask, check_outputs
from autopeft.workers.tasks.metric_names import CLASSIFICATION, DEFAULT_METRICS, METRICS_BY_TASK

if TYPE_CHECKING:
    import torch


@TASKS.register(CLASSIFICATION)
class Classification(LabelledTask):
    """Cross-entropy over the classes seen in training.

    Classes are numbered in sorted order of the labels (strings as strings, integers as
    integers). Where the source names integer labels, a label is its own number.
    """

    name: ClassVar[str] = CLASSIFICATION
    metrics = METRICS_BY_TASK[CLASSIFICATION]
    default_metric = DEFAULT_METRICS[CLASSIFICATION]
    problem_type = "single_label_classification"
    auto_class = "AutoModelForSequenceClassification"
    peft_task_type: ClassVar[str | None] = "SEQ_CLS"
    label_kind = "classes"

    def encode_labels(self, splits: DataSplits) -> LabelEncoding:
        """Return class numbers; every label must occur in training or have a name."""
        names = splits.label_names
        if names is None:
            classes: list[Any] = sorted(set(splits.splits["train"].label))
            id2label = tuple(str(label) for label in classes)
        else:
            classes = list(range(len(names)))
            id2label = names
        numbers = {label: number for number, label in enumerate(classes)}
        for split in SPLIT_NAMES:
            unknown = sorted({str(x) for x in splits.splits[split].label if x not in numbers})
            if unknown:
                raise DataError(
                    f"split {split} has labels that no training row has: {', '.join(unknown[:5])}",
                    hint="add training rows with these labels, or remove the rows",
                )
        labels = {
            split: np.array([numbers[x] for x in splits.splits[split].label], dtype=np.int64)
            for split in SPLIT_NAMES
        }
        return LabelEncoding(num_outputs=len(classes), id2label=id2label, labels=labels)

    def predictions_to_metrics(
        self, outputs: NDArray[np.float32], labels: NDArray[Any]
    ) -> dict[str, float]:
        """Return accuracy, macro f1, Matthews correlation and cross-entropy (nats)."""
        check_outputs(outputs, labels)
        if not np.all(np.isfinite(outputs)):
            return dict.fromkeys(self.metrics, float("nan"))
        predicted = np.argmax(outputs, axis=1)
        confusion = np.zeros((outputs.shape[1], outputs.shape[1]))
        np.add.at(confusion, (labels, predicted), 1.0)
        return {
            "accuracy": float(np.mean(predicted == labels)),
            "f1": _macro_f1(confusion),
            "matthews": _matthews(confusion),
            "loss": _cross_entropy(outputs.astype(np.float64), labels),
        }

    def constant_outputs(self, encoding: LabelEncoding) -> NDArray[np.float32]:
        """Return the log frequencies of the training classes, each counted once more."""
        counts = np.bincount(encoding.labels["train"], minlength=encoding.num_outputs) + 1.0
        outputs: NDArray[np.float32] = np.log(counts / counts.sum()).astype(np.float32)
        return outputs

    def loss(self, outputs: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the mean cross-entropy in nats."""
        import torch.nn.functional as F

        return F.cross_entropy(outputs.logits.float(), batch["labels"])

    def mismatches(
        self, rebuilt: NDArray[np.float32], outputs: NDArray[np.float32], rounding: float
    ) -> NDArray[np.bool_]:
        """Return where the class ``outputs`` calls leads the rebuilt one by more than rounding."""
        rows = np.arange(len(outputs))
        lead = outputs.max(axis=1) - outputs[rows, rebuilt.argmax(axis=1)]
        differs: NDArray[np.bool_] = lead > rounding * float(outputs.std())
        return differs


def _macro_f1(confusion: NDArray[np.float64]) -> float:
    """Return the mean F1 of the classes that occur; ``confusion[i, j]`` is label i called j."""
    hits = np.diag(confusion)
    seen = confusion.sum(axis=0) + confusion.sum(axis=1)
    return float(np.mean(2 * hits[seen > 0] / seen[seen > 0]))


def _matthews(confusion: NDArray[np.float64]) -> float:
    """Return the multi-class correlation R_K of Gorodkin (2004), equation 8.

    Where labels or predictions are all of one class it is undefined; 0 is returned.
    """
    total = confusion.sum()
    true, called = confusion.sum(axis=1), confusion.sum(axis=0)
    covariance = np.trace(confusion) * total - true @ called
    spread = (total**2 - true @ true) * (total**2 - called @ called)
    return float(covariance / np.sqrt(spread)) if spread > 0 else 0.0


def _cross_entropy(logits: NDArray[np.float64], labels: NDArray[Any]) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    return float(np.mean(log_sum - shifted[np.arange(len(labels)), labels]))
