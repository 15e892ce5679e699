"""What language models have in common: losses of tokens, and scores made of them."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from autopeft.errors import DataError
from autopeft.workers.dataset import SPLIT_NAMES, DataSplits, EncodedData, Rows
from autopeft.workers.tasks.base import (
    EncodingSettings,
    LabelEncoding,
    Task,
    check_outputs,
    oriented,
)

if TYPE_CHECKING:
    import torch

    from autopeft.workers.data.columns import ChosenColumns
    from autopeft.workers.data.table import Table


#: What a batch without numbers brings: the places of its trained tokens.
TRAINED_TOKENS = "trained_tokens"


class LanguageModelTask(Task):
    """Cross-entropy of the tokens that are trained on, in nats per token.

    Evaluation keeps two numbers an example: the sum of the losses of its trained tokens, and
    how many they are. ``loss`` is the sum over all examples by the number of all their tokens,
    so that each token counts the same; ``perplexity`` is its exponential.
    """

    has_head: ClassVar[bool] = False
    label_kind = "none"

    @abstractmethod
    def trained_tokens(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return example and place of each token that is trained on, ``n x 2``.

        A batch without numbers that does not bring them is trained on everywhere.
        """

    def index_tensors(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the places of the trained tokens."""
        return {TRAINED_TOKENS: self.trained_tokens(batch)}

    @abstractmethod
    def token_losses(
        self, outputs: Any, batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the losses of the trained tokens, in float32, and the example of each.

        Both are of length ``num_targets(batch)``, example by example.
        """

    def encode_labels(self, splits: DataSplits) -> LabelEncoding:
        """Return zeros: what is to be predicted are the tokens themselves."""
        labels = {
            split: np.zeros(len(splits.splits[split]), dtype=np.int64) for split in SPLIT_NAMES
        }
        return LabelEncoding(num_outputs=0, id2label=None, labels=labels)

    def loss(self, outputs: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the mean loss of the batch's trained tokens, in nats."""
        losses, _ = self.token_losses(outputs, batch)
        return losses.mean()

    def num_targets(self, batch: Mapping[str, torch.Tensor]) -> int:
        """Return how many tokens of the batch are trained on."""
        from autopeft.workers.data.language import NOT_TRAINED

        return int((batch["labels"] != NOT_TRAINED).sum())

    def reduce(self, outputs: Any, batch: Mapping[str, torch.Tensor]) -> NDArray[np.float32]:
        """Return ``b x 2``: the sum of each example's losses, and its trained tokens."""
        import torch

        losses, examples = self.token_losses(outputs, batch)
        zeros = torch.zeros(len(batch["labels"]), dtype=torch.float32, device=losses.device)
        sums = zeros.index_add(0, examples, losses)
        counts = zeros.index_add(0, examples, torch.ones_like(losses))
        kept: NDArray[np.float32] = torch.stack([sums, counts], dim=1).detach().cpu().numpy()
        return kept

    def predictions_to_metrics(
        self, outputs: NDArray[np.float32], labels: NDArray[Any]
    ) -> dict[str, float]:
        """Return the mean loss of a token and its exponential.

        Args:
            outputs: ``n x 2`` sums of losses and numbers of tokens.
            labels: ``n`` numbers of trained tokens.
        """
        check_outputs(outputs, labels, num_outputs=2)
        if not np.all(np.isfinite(outputs)):
            return dict.fromkeys(self.metrics, float("nan"))
        sums = outputs.astype(np.float64).sum(axis=0)
        return _metrics(float(sums[0] / max(1.0, float(np.sum(labels)))))

    def chance_score(
        self, encoding: LabelEncoding, metric: str, data: EncodedData | None = None
    ) -> float:
        """Return the score of a model that knows only how frequent tokens are.

        The frequencies are those of the trained tokens of the training split, each token up to
        the largest one counted once more.
        """
        assert data is not None, "a language model's labels are its tokens"
        train, validation = (_trained(split) for split in (data.train, data.validation))
        largest = int(max(train.max(), validation.max()))
        counts = np.bincount(train, minlength=largest + 1) + 1.0
        losses = -np.log(counts / counts.sum())[validation]
        return oriented(self, metric, _metrics(float(losses.mean()))[metric])

    def ideal_score(self, metric: str) -> float:
        """Return the score of a model that is certain of every token."""
        return oriented(self, metric, _metrics(0.0).get(metric, 0.0))

    @abstractmethod
    def prompts(self, rows: Rows, tokenizer: Any, settings: EncodingSettings) -> list[list[int]]:
        """Return for each row the tokens that its reference is the answer to.

        Raises:
            DataError: rows are plain texts, which answer nothing.
        """

    @abstractmethod
    def references(self, rows: Rows) -> list[str]:
        """Return for each row the text that is to be written.

        Raises:
            DataError: rows are plain texts, which answer nothing.
        """

    def clean(self, table: Table, columns: ChosenColumns) -> tuple[Table, int]:
        """Return all rows: :meth:`make_rows` refuses one that lacks something."""
        return table, 0

    def make_rows(self, table: Table, columns: ChosenColumns, labels: list[Any]) -> Rows:
        """Return the columns by role, texts and messages made sound.

        Raises:
            DataError: a prompt, a completion or a message is missing or of the wrong kind.
        """
        from autopeft.workers.data.completions import make_language_rows

        return make_language_rows(table, columns, labels)

    def keys(self, rows: Rows) -> list[str]:
        """Return what rows share that ask the same: prompts, or what precedes an answer."""
        from autopeft.workers.data.completions import question_keys

        return question_keys(rows)

    def what_is_equal(self, rows: Rows) -> str:
        """Say what is asked: a prompt, or the messages before the first answer."""
        if "messages" in rows.columns:
            return "whose messages before the first answer are equal"
        return "of equal prompt" if "prompt" in rows.columns else super().what_is_equal(rows)


def _metrics(loss: float) -> dict[str, float]:
    largest = np.log(sys.float_info.max)
    perplexity = float(np.exp(min(loss, largest)))
    # Adding 0.0 makes a loss of -0.0 the 0.0 it is.
    return {"loss": loss + 0.0, "perplexity": perplexity}


def _trained(split: Any) -> NDArray[np.int64]:
    from autopeft.workers.data.language import NOT_TRAINED

    labels = split.fields["labels"].values
    trained: NDArray[np.int64] = labels[labels != NOT_TRAINED].astype(np.int64)
    return trained


def refuse_plain_texts(rows: Rows) -> None:
    """Raise ``DataError`` where rows are plain texts."""
    if not {"messages", "completion"} & set(rows.columns):
        raise DataError(
            "plain texts have no answers that could be generated and scored",
            hint="leave metric out, or give the data as messages or as prompt and completion",
        )
