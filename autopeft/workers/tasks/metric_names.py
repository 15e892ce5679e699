"""The metrics of the built-in tasks by name, known without torch, scikit-learn or data."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

CLASSIFICATION = "classification"
REGRESSION = "regression"
CAUSAL_LM = "causal-lm"
SEQ2SEQ_LM = "seq2seq-lm"

#: Of language models: mean loss in nats per trained token, and its exponential.
_LANGUAGE_MODEL: Mapping[str, bool] = MappingProxyType({"loss": False, "perplexity": False})

#: Task name -> metric name -> whether a greater value is better. The first metric that is
#: listed is the task's default.
METRICS_BY_TASK: Mapping[str, Mapping[str, bool]] = MappingProxyType(
    {
        CLASSIFICATION: MappingProxyType(
            {"accuracy": True, "f1": True, "matthews": True, "loss": False}
        ),
        REGRESSION: MappingProxyType({"spearman": True, "pearson": True, "loss": False}),
        CAUSAL_LM: _LANGUAGE_MODEL,
        SEQ2SEQ_LM: _LANGUAGE_MODEL,
    }
)

DEFAULT_METRICS: Mapping[str, str] = MappingProxyType(
    {task: next(iter(metrics)) for task, metrics in METRICS_BY_TASK.items()}
)

#: Metrics that some built-in task has, sorted.
METRIC_NAMES: tuple[str, ...] = tuple(
    sorted({metric for metrics in METRICS_BY_TASK.values() for metric in metrics})
)
