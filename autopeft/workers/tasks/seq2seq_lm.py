"""Fine-tuning an encoder-decoder: from a source text to a target text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from autopeft.workers.dataset import INPUT_IDS, EncodedSplit, Rows
from autopeft.workers.tasks.base import TASKS, EncodingSettings
from autopeft.workers.tasks.language_model import TRAINED_TOKENS, LanguageModelTask
from autopeft.workers.tasks.metric_names import DEFAULT_METRICS, METRICS_BY_TASK, SEQ2SEQ_LM

if TYPE_CHECKING:
    import torch

    from autopeft.workers.data.columns import ChosenColumns
    from autopeft.workers.data.table import Table
    from autopeft.workers.settings import Columns


@TASKS.register(SEQ2SEQ_LM)
class SequenceToSequence(LanguageModelTask):
    """Cross-entropy of each token of the target, given the source and the tokens before it.

    Source and target are each at most ``max_tokens`` long; longer ones lose their end.
    """

    name: ClassVar[str] = SEQ2SEQ_LM
    metrics = METRICS_BY_TASK[SEQ2SEQ_LM]
    default_metric = DEFAULT_METRICS[SEQ2SEQ_LM]
    auto_class = "AutoModelForSeq2SeqLM"
    peft_task_type = "SEQ_2_SEQ_LM"

    def choose_columns(self, table: Table, wanted: Columns) -> ChosenColumns:
        """Return a column of sources and one of targets."""
        from autopeft.workers.data.columns import choose_prompts

        return choose_prompts(table, wanted)

    def encode(
        self, rows: Rows, labels: NDArray[Any], processor: Any, settings: EncodingSettings
    ) -> EncodedSplit:
        """Return the tokens of sources, and those of targets as labels."""
        from autopeft.workers.data.language import NOT_TRAINED
        from autopeft.workers.data.tokenization import padding_token, ragged

        limits = {
            "truncation": True,
            "max_length": settings.max_tokens,
            "return_attention_mask": False,
        }
        sources = processor(rows.columns["prompt"], **limits)[INPUT_IDS]
        targets = processor(text_target=rows.columns["completion"], **limits)[INPUT_IDS]
        fields = {
            INPUT_IDS: ragged(sources, np.int32, padding_token(processor)),
            "labels": ragged(targets, np.int32, NOT_TRAINED),
        }
        return EncodedSplit(fields=fields, labels=fields["labels"].lengths)

    def forward(self, model: Any, batch: Mapping[str, torch.Tensor]) -> Any:
        """Return outputs with a logit for each position of the labels; nothing is cached."""
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        shifted = base.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
        left_out = ("labels", TRAINED_TOKENS)
        inputs = {name: tensor for name, tensor in batch.items() if name not in left_out}
        return model(**inputs, decoder_input_ids=shifted, use_cache=False)

    def trained_tokens(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return example and place of each token of the targets, ``n x 2``."""
        labels = batch["labels"]
        if TRAINED_TOKENS in batch:
            return batch[TRAINED_TOKENS]
        if labels.is_meta:
            return labels.new_empty((labels.numel(), 2))
        return (labels >= 0).nonzero()

    def token_losses(
        self, outputs: Any, batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss of each token of the targets, and its example."""
        import torch.nn.functional as F

        labels = batch["labels"]
        logits = outputs.logits[:, -labels.shape[1] :]
        examples, places = self.trained_tokens(batch).unbind(1)
        losses = F.cross_entropy(
            logits[examples, places].float(), labels[examples, places], reduction="none"
        )
        return losses, examples

    def prompts(self, rows: Rows, tokenizer: Any, settings: EncodingSettings) -> list[list[int]]:
        """Return the tokens of sources, as the encoder is given them."""
        found: list[list[int]] = tokenizer(
            rows.columns["prompt"], truncation=True, max_length=settings.max_tokens
        )[INPUT_IDS]
        return found

    def references(self, rows: Rows) -> list[str]:
        """Return the targets."""
        return list(rows.columns["completion"])
