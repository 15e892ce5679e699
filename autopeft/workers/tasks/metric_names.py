"""The metrics of the built-in tasks by name, known without torch, scikit-learn or data."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from autopeft.workers.task_names import (
    AUDIO_CLASSIFICATION as AUDIO_CLASSIFICATION,
)
from autopeft.workers.task_names import (
    CAUSAL_LM as CAUSAL_LM,
)
from autopeft.workers.task_names import (
    CLASSIFICATION as CLASSIFICATION,
)
from autopeft.workers.task_names import (
    IMAGE_CLASSIFICATION as IMAGE_CLASSIFICATION,
)
from autopeft.workers.task_names import (
    MULTIPLE_CHOICE as MULTIPLE_CHOICE,
)
from autopeft.workers.task_names import (
    REGRESSION as REGRESSION,
)
from autopeft.workers.task_names import (
    SEQ2SEQ_LM as SEQ2SEQ_LM,
)
from autopeft.workers.task_names import (
    TOKEN_CLASSIFICATION as TOKEN_CLASSIFICATION,
)

#: Of one class for each example: macro F1, and Matthews' correlation.
_CLASSES: Mapping[str, bool] = MappingProxyType(
    {"accuracy": True, "f1": True, "matthews": True, "loss": False}
)
#: Of language models: mean loss in nats per trained token, and its exponential.
_LANGUAGE_MODEL: Mapping[str, bool] = MappingProxyType({"loss": False, "perplexity": False})

#: Task name -> metric name -> whether a greater value is better. The first metric that is
#: listed is the task's default.
METRICS_BY_TASK: Mapping[str, Mapping[str, bool]] = MappingProxyType(
    {
        CLASSIFICATION: _CLASSES,
        REGRESSION: MappingProxyType({"spearman": True, "pearson": True, "loss": False}),
        CAUSAL_LM: _LANGUAGE_MODEL,
        SEQ2SEQ_LM: _LANGUAGE_MODEL,
        # F1 of entities here, of which both ends and the type must be right.
        TOKEN_CLASSIFICATION: MappingProxyType({"f1": True, "accuracy": True, "loss": False}),
        MULTIPLE_CHOICE: MappingProxyType({"accuracy": True, "loss": False}),
        IMAGE_CLASSIFICATION: _CLASSES,
        AUDIO_CLASSIFICATION: _CLASSES,
    }
)

DEFAULT_METRICS: Mapping[str, str] = MappingProxyType(
    {task: next(iter(metrics)) for task, metrics in METRICS_BY_TASK.items()}
)

#: Metrics that some built-in task has, sorted.
METRIC_NAMES: tuple[str, ...] = tuple(
    sorted({metric for metrics in METRICS_BY_TASK.values() for metric in metrics})
)
