"""Token classification: a tag for each word, such as the names in a text.

Words come as lists. The first token of a word carries its tag, the others none. A word that
``max_tokens`` cut away, or that the tokenizer drops, is called nothing: its entity is missed, and
it counts as wrong in ``accuracy``; ``loss`` is over the words a model sees. ``f1`` is that of
whole entities, over all rows together: both ends and the type must be right. How tags mark
entities is told in :mod:`autopeft.workers.data.tags`; for tags that mark none (parts of speech,
say) ``accuracy`` is the metric to choose.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from autopeft.errors import DataError, ModelError
from autopeft.workers.data.tags import (
    NO_TAG,
    as_bio,
    is_prefixed,
    ordered_tags,
    padded,
    spans,
)
from autopeft.workers.dataset import (
    INPUT_IDS,
    SPLIT_NAMES,
    DataSplits,
    EncodedData,
    EncodedSplit,
    Field,
    Rows,
)
from autopeft.workers.tasks.base import (
    TASKS,
    EncodingSettings,
    LabelEncoding,
    Task,
    check_outputs,
    oriented,
)
from autopeft.workers.tasks.metric_names import (
    DEFAULT_METRICS,
    METRICS_BY_TASK,
    TOKEN_CLASSIFICATION,
)

if TYPE_CHECKING:
    import torch

    from autopeft.workers.data.columns import ChosenColumns
    from autopeft.workers.data.table import Table
    from autopeft.workers.settings import Columns

#: Fields of a batch that are for scoring: of each token the word it begins, the tags of all
#: words, and how they mark entities.
WORDS, WORD_TAGS, IS_BIO = "words", "word_tags", "is_bio"
#: Numbers that evaluation keeps of an example.
NUM_KEPT = 7
_NOT_FOR_MODEL = ("labels", WORDS, WORD_TAGS, IS_BIO)


@TASKS.register(TOKEN_CLASSIFICATION)
class TokenClassification(Task):
    """Cross-entropy of the tag of each word, in nats.

    Evaluation keeps seven numbers an example: entities called rightly, entities called, entities
    there are, words called rightly, words there are, words the model sees, and the sum of their
    losses. Labels are ``n x w`` tag numbers, filled with
    :data:`~autopeft.workers.data.tags.NO_TAG`.
    """

    name: ClassVar[str] = TOKEN_CLASSIFICATION
    metrics = METRICS_BY_TASK[TOKEN_CLASSIFICATION]
    default_metric = DEFAULT_METRICS[TOKEN_CLASSIFICATION]
    auto_class = "AutoModelForTokenClassification"
    peft_task_type = "TOKEN_CLS"
    label_kind = "own"

    def choose_columns(self, table: Table, wanted: Columns) -> ChosenColumns:
        """Return a column of words and one of tags."""
        from autopeft.workers.data.task_columns import choose_words

        return choose_words(table, wanted)

    def clean(self, table: Table, columns: ChosenColumns) -> tuple[Table, int]:
        """Return the rows that have words, and how many have none."""
        from autopeft.workers.data.words import without_empty_lists

        return without_empty_lists(table, columns.inputs["tokens"])

    def make_rows(self, table: Table, columns: ChosenColumns, labels: list[Any]) -> Rows:
        """Return words and tags, tags by name where names are known.

        Raises:
            DataError: words are no lists of texts, or tags no list of as many.
        """
        from autopeft.workers.data.words import make_word_rows

        return make_word_rows(table, columns, labels)

    def keys(self, rows: Rows) -> list[str]:
        """Return the words of each row, joined."""
        from autopeft.workers.data.splitting import text_key

        return [text_key(" ".join(words)) for words in rows.columns["tokens"]]

    def encode_labels(self, splits: DataSplits) -> LabelEncoding:
        """Return tag numbers, ``n x w``; every tag must occur in training or have a name.

        Of prefixed tags both ``B-x`` and ``I-x`` count as known where one of them is.
        """
        train = splits.splits["train"].label
        tags = {tag for row in train for tag in row} | set(_names(splits.label_names))
        if len({type(tag) for tag in tags}) > 1:
            raise DataError(
                "tags mix names and numbers: data.label_names name some of the numbers only",
                hint="name all of them, in the order of their numbers",
            )
        known = ordered_tags(tags)
        if len(known) < 2:
            raise DataError(
                f"every tag in training is {known[0]!r}; expected at least two different ones",
                hint="name another column in data.columns.tags",
            )
        numbers = {tag: number for number, tag in enumerate(known)}
        labels: dict[Any, NDArray[Any]] = {}
        for split in SPLIT_NAMES:
            rows = splits.splits[split].label
            unknown = sorted({str(tag) for row in rows for tag in row if tag not in numbers})
            if unknown:
                raise DataError(
                    f"split {split} has tags that no training row has: {', '.join(unknown[:5])}",
                    hint="add training rows with these tags, or remove the rows",
                )
            labels[split] = padded([[numbers[tag] for tag in row] for row in rows])
        return LabelEncoding(
            num_outputs=len(known), id2label=tuple(str(tag) for tag in known), labels=labels
        )

    def encode(
        self, rows: Rows, labels: NDArray[Any], processor: Any, settings: EncodingSettings
    ) -> EncodedSplit:
        """Return tokens, the tag of each word's first token, and what scoring needs.

        Raises:
            ModelError: the tokenizer cannot tell which token belongs to which word.
        """
        from autopeft.workers.data.words import encode_words

        if not processor.is_fast:
            raise ModelError(
                "the model's tokenizer cannot tell which token belongs to which word",
                hint="choose a model with a tokenizer.json",
            )
        fields, first_words = encode_words(rows.columns["tokens"], processor, settings.max_tokens)
        tags = [
            np.where(words >= 0, row[words], NO_TAG)
            for row, words in zip(labels, first_words, strict=True)
        ]
        # A split whose tags are all O is read the same way by either marking.
        is_bio = is_prefixed({tag for row in rows.label for tag in row})
        offsets = fields[INPUT_IDS].offsets
        word_tags = [row[: len(words)] for row, words in zip(labels, rows.label, strict=True)]
        ends = np.concatenate([[0], np.cumsum([len(row) for row in word_tags])])
        return EncodedSplit(
            fields={
                **fields,
                "labels": Field(
                    values=np.concatenate(tags).astype(np.int32), offsets=offsets, fill=NO_TAG
                ),
                WORDS: Field(
                    values=np.concatenate(first_words).astype(np.int32), offsets=offsets, fill=-1
                ),
                WORD_TAGS: Field(
                    values=np.concatenate(word_tags), offsets=ends.astype(np.int64), fill=NO_TAG
                ),
                IS_BIO: Field(values=np.full(len(rows), is_bio)),
            },
            labels=labels,
        )

    def forward(self, model: Any, batch: Mapping[str, torch.Tensor]) -> Any:
        """Return outputs with a logit for each tag of each token."""
        return model(**{name: t for name, t in batch.items() if name not in _NOT_FOR_MODEL})

    def loss(self, outputs: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the mean cross-entropy of the words' tags, in nats."""
        import torch.nn.functional as F

        logits, labels = _aligned(outputs.logits, batch["labels"])
        return F.cross_entropy(logits, labels, ignore_index=NO_TAG)

    def num_targets(self, batch: Mapping[str, torch.Tensor]) -> int:
        """Return how many words have a tag."""
        return int((batch["labels"] != NO_TAG).sum())

    def reduce(self, outputs: Any, batch: Mapping[str, torch.Tensor]) -> NDArray[np.float32]:
        """Return ``b x 7``, as the class says; logits that are not finite make rows of NaN."""
        import torch.nn.functional as F

        logits, labels = _aligned(outputs.logits.detach(), batch["labels"])
        losses = F.cross_entropy(logits, labels, ignore_index=NO_TAG, reduction="none")
        shape = batch["labels"].shape
        sums = losses.reshape(shape).sum(dim=1).cpu().numpy()
        called = logits.argmax(dim=1).reshape(shape).cpu().numpy()
        words, word_tags, is_bio = (batch[n].cpu().numpy() for n in (WORDS, WORD_TAGS, IS_BIO))
        kept = [
            [*_count(_called_words(called[i], words[i], word_tags[i]), word_tags[i], is_bio[i]), s]
            for i, s in enumerate(sums)
        ]
        return np.asarray(kept, dtype=np.float32)

    def predictions_to_metrics(
        self, outputs: NDArray[np.float32], labels: NDArray[Any]
    ) -> dict[str, float]:
        """Return F1 of entities, accuracy of words, and cross-entropy (nats).

        Without an entity, there or called, F1 is 0, as ``conlleval`` has it.
        """
        check_outputs(outputs, labels, num_outputs=NUM_KEPT)
        if not np.all(np.isfinite(outputs)):
            return dict.fromkeys(self.metrics, float("nan"))
        both, called, there, right, words, seen, losses = outputs.astype(np.float64).sum(axis=0)
        return {
            "f1": float(2 * both / max(1.0, called + there)),
            "accuracy": float(right / max(1.0, words)),
            "loss": float(losses / max(1.0, seen)),
        }

    def chance_score(
        self, encoding: LabelEncoding, metric: str, data: EncodedData | None = None
    ) -> float:
        """Return the score of calling every word by the most frequent tag of training.

        Its loss is that of the tags' frequencies, each counted once more.
        """
        train, validation = (encoding.labels[split] for split in ("train", "validation"))
        counts = np.bincount(train[train >= 0], minlength=encoding.num_outputs) + 1.0
        losses = -np.log(counts / counts.sum())
        is_bio = is_prefixed(encoding.id2label or ())
        kept = []
        for row in validation:
            tags = row[row >= 0]
            called = np.full(len(tags), np.argmax(counts))
            kept.append([*_count(called, tags, is_bio), float(losses[tags].sum())])
        values = self.predictions_to_metrics(np.asarray(kept, dtype=np.float32), validation)
        return oriented(self, metric, values[metric])

    def mismatches(
        self, rebuilt: NDArray[np.float32], outputs: NDArray[np.float32], rounding: float
    ) -> NDArray[np.bool_]:
        """Return where counts differ, or sums of losses by more than rounding."""
        counts = np.any(rebuilt[:, :-1] != outputs[:, :-1], axis=1)
        losses = np.abs(rebuilt[:, -1] - outputs[:, -1]) > rounding * float(outputs[:, -1].std())
        differs: NDArray[np.bool_] = counts & losses
        return differs


def _names(names: tuple[str, ...] | None) -> tuple[str, ...]:
    names = names or ()
    return tuple(map(as_bio, names)) if is_prefixed(names) else names


def _aligned(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits, ``t x c`` in float32, and tags, ``t``; a prompt's own outputs are cut off."""
    return logits[:, -labels.shape[1] :].flatten(0, 1).float(), labels.flatten()


def _called_words(
    called: NDArray[Any], words: NDArray[Any], word_tags: NDArray[Any]
) -> NDArray[Any]:
    """Return the tag each word of an example is called by, from those of its tokens."""
    by_word = np.full(word_tags.shape, NO_TAG, dtype=np.int64)
    by_word[words[words >= 0]] = called[words >= 0]
    return by_word


def _count(called: NDArray[Any], there: NDArray[Any], is_bio: bool) -> tuple[int, ...]:
    """Return entities called rightly, called and there; words called rightly, there and called."""
    found, real = spans(called, is_bio=is_bio), spans(there, is_bio=is_bio)
    is_word = there >= 0
    right = int(np.sum((called == there) & is_word))
    seen = int(np.sum((called >= 0) & is_word))
    return len(found & real), len(found), len(real), right, int(is_word.sum()), seen
