"""Multiple choice: which of several answers is right.

A text and one choice make a pair of texts; the model gives each pair a number, and the greatest
wins. What is asked, where it stands in a column of its own, follows the text; ``cause`` becomes
"What was the cause?", ``effect`` "What happened as a result?" (COPA), anything else stays as it
is. Rows may differ in how many choices they have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from autopeft.workers.dataset import SPLIT_NAMES, DataSplits, EncodedData, EncodedSplit, Rows
from autopeft.workers.tasks.base import (
    TASKS,
    EncodingSettings,
    LabelEncoding,
    Task,
    check_outputs,
    oriented,
)
from autopeft.workers.tasks.metric_names import DEFAULT_METRICS, METRICS_BY_TASK, MULTIPLE_CHOICE

if TYPE_CHECKING:
    import torch

    from autopeft.workers.data.columns import ChosenColumns
    from autopeft.workers.data.table import Table
    from autopeft.workers.settings import Columns

#: Output of a choice that a row does not have: finite, and never the greatest.
ABSENT = -1e9
#: Field that tells which choices of an example are there.
IS_CHOICE = "is_choice"


@TASKS.register(MULTIPLE_CHOICE)
class MultipleChoice(Task):
    """Cross-entropy over the choices of each row, in nats.

    Evaluation keeps ``n x c`` numbers, c being the most choices of any row of the split;
    :data:`ABSENT` where a row has fewer.
    """

    name: ClassVar[str] = MULTIPLE_CHOICE
    metrics = METRICS_BY_TASK[MULTIPLE_CHOICE]
    default_metric = DEFAULT_METRICS[MULTIPLE_CHOICE]
    auto_class = "AutoModelForMultipleChoice"
    peft_task_type = None
    label_kind = "own"

    def choose_columns(self, table: Table, wanted: Columns) -> ChosenColumns:
        """Return the columns of text, question, choices and answer."""
        from autopeft.workers.data.task_columns import choose_choices

        return choose_choices(table, wanted)

    def clean(self, table: Table, columns: ChosenColumns) -> tuple[Table, int]:
        """Return all rows: :meth:`make_rows` refuses one that lacks something."""
        return table, 0

    def make_rows(self, table: Table, columns: ChosenColumns, labels: list[Any]) -> Rows:
        """Return texts, questions, lists of choices, and the place of the right one from 0.

        Raises:
            DataError: something is missing or of the wrong kind, or an answer is no choice.
        """
        from autopeft.workers.data.choices import make_choice_rows

        return make_choice_rows(table, columns, labels)

    def keys(self, rows: Rows) -> list[str]:
        """Return text, question and choices of each row."""
        from autopeft.workers.data.choices import stems
        from autopeft.workers.data.splitting import text_key

        return [
            text_key(stem, " ".join(choices))
            for stem, choices in zip(stems(rows), rows.columns["choices"], strict=True)
        ]

    def encode_labels(self, splits: DataSplits) -> LabelEncoding:
        """Return the place of the right choice; the head has one output, for any choice."""
        labels = {
            split: np.array(splits.splits[split].label, dtype=np.int64) for split in SPLIT_NAMES
        }
        return LabelEncoding(num_outputs=1, id2label=None, labels=labels)

    def encode(
        self, rows: Rows, labels: NDArray[Any], processor: Any, settings: EncodingSettings
    ) -> EncodedSplit:
        """Return a pair of texts for each choice; absent choices are all but empty."""
        from autopeft.workers.data.choices import encode_choices

        return encode_choices(rows, labels, processor, settings.max_tokens, IS_CHOICE)

    def forward(self, model: Any, batch: Mapping[str, torch.Tensor]) -> Any:
        """Return outputs with a logit for each choice."""
        left_out = ("labels", IS_CHOICE)
        return model(**{name: tensor for name, tensor in batch.items() if name not in left_out})

    def loss(self, outputs: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the mean cross-entropy of the right choices, in nats."""
        import torch.nn.functional as F

        return F.cross_entropy(_logits(outputs, batch), batch["labels"])

    def reduce(self, outputs: Any, batch: Mapping[str, torch.Tensor]) -> NDArray[np.float32]:
        """Return ``b x c``."""
        kept: NDArray[np.float32] = _logits(outputs, batch).detach().cpu().numpy()
        return kept

    def predictions_to_metrics(
        self, outputs: NDArray[np.float32], labels: NDArray[Any]
    ) -> dict[str, float]:
        """Return accuracy and cross-entropy (nats); of equal choices the first is called."""
        check_outputs(outputs, labels)
        if not np.all(np.isfinite(outputs)):
            return dict.fromkeys(self.metrics, float("nan"))
        logits = outputs.astype(np.float64)
        shifted = logits - logits.max(axis=1, keepdims=True)
        right = shifted[np.arange(len(labels)), labels]
        return {
            "accuracy": float(np.mean(np.argmax(outputs, axis=1) == labels)),
            "loss": float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - right)),
        }

    def chance_score(
        self, encoding: LabelEncoding, metric: str, data: EncodedData | None = None
    ) -> float:
        """Return the score of guessing, each choice as likely as the others.

        A model judges each choice by itself and sees no place, so how often a place is right in
        training is nothing it could know.
        """
        assert data is not None, "how many choices there are is known once they are encoded"
        split = data.validation
        counts = split.fields[IS_CHOICE].values.reshape(-1, split.num_sequences).sum(axis=1)
        values = {"accuracy": np.mean(1 / counts), "loss": np.mean(np.log(counts))}
        return oriented(self, metric, float(values.get(metric, 0.0)))

    def mismatches(
        self, rebuilt: NDArray[np.float32], outputs: NDArray[np.float32], rounding: float
    ) -> NDArray[np.bool_]:
        """Return where the choice ``outputs`` calls leads the rebuilt one by more than rounding."""
        lead = outputs.max(axis=1) - outputs[np.arange(len(outputs)), rebuilt.argmax(axis=1)]
        spread = float(outputs[outputs > ABSENT / 2].std())
        differs: NDArray[np.bool_] = lead > rounding * spread
        return differs


def _logits(outputs: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    logits: torch.Tensor = outputs.logits.float()
    is_choice = batch.get(IS_CHOICE)
    return logits if is_choice is None else logits.masked_fill(~is_choice, ABSENT)
