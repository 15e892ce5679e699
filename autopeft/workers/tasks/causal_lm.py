"""Fine-tuning a causal language model: on conversations, on completions or on texts.

The loss is that of the assistant's turns, of the completion, or of the whole text, each with
the token that ends it; see :mod:`autopeft.workers.data.language`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from autopeft.errors import ModelError
from autopeft.workers.dataset import EncodedSplit, Rows
from autopeft.workers.tasks.base import TASKS, EncodingSettings
from autopeft.workers.tasks.language_model import (
    TRAINED_TOKENS,
    LanguageModelTask,
    refuse_plain_texts,
)
from autopeft.workers.tasks.metric_names import CAUSAL_LM, DEFAULT_METRICS, METRICS_BY_TASK

if TYPE_CHECKING:
    import torch

    from autopeft.workers.data.columns import ChosenColumns
    from autopeft.workers.data.table import Table
    from autopeft.workers.settings import Columns

#: What a batch without numbers brings: the positions that some example predicts at.
PREDICTING = "predicting_positions"


@TASKS.register(CAUSAL_LM)
class CausalLanguageModel(LanguageModelTask):
    """Cross-entropy of each trained token given the tokens before it."""

    name: ClassVar[str] = CAUSAL_LM
    metrics = METRICS_BY_TASK[CAUSAL_LM]
    default_metric = DEFAULT_METRICS[CAUSAL_LM]
    auto_class = "AutoModelForCausalLM"
    peft_task_type = "CAUSAL_LM"

    def choose_columns(self, table: Table, wanted: Columns) -> ChosenColumns:
        """Return a column of messages, one of prompts and one of completions, or one of texts."""
        from autopeft.workers.data.columns import choose_messages

        return choose_messages(table, wanted)

    def clean(self, table: Table, columns: ChosenColumns) -> tuple[Table, int]:
        """Return the rows; empty texts are left out, anything else that is missing is refused."""
        if "text" in columns.inputs:
            from autopeft.workers.data.texts import without_empty_texts

            return without_empty_texts(table, columns)
        return super().clean(table, columns)

    def encode(
        self, rows: Rows, labels: NDArray[Any], processor: Any, settings: EncodingSettings
    ) -> EncodedSplit:
        """Return tokens, their labels, and the trained tokens of each example."""
        from autopeft.workers.data.language import encode_language

        return encode_language(rows, processor, settings.max_tokens, settings.chat_template)

    def pack(self, split: EncodedSplit, settings: EncodingSettings) -> EncodedSplit:
        """Return sequences of up to ``max_tokens`` where settings ask for packing."""
        from autopeft.workers.data.packing import pack_examples

        return pack_examples(split, settings.max_tokens) if settings.packing else split

    def forward(self, model: Any, batch: Mapping[str, torch.Tensor]) -> Any:
        """Return outputs whose logits stand at the positions of the batch that predict something.

        Logits are made for these positions alone where the model can (``logits_to_keep``):
        with long prompts, large vocabularies or both, logits take more memory than the rest.
        Positions are counted from the end, since prompt methods put tokens in front. Nothing is
        cached.
        """
        left_out = ("labels", PREDICTING, TRAINED_TOKENS)
        inputs: dict[str, Any] = {n: tensor for n, tensor in batch.items() if n not in left_out}
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        known = inspect.signature(base.forward).parameters
        if "position_ids" in inputs:
            _check_can_pack(model)
        if "use_cache" in known:
            inputs["use_cache"] = False
        if "logits_to_keep" in known:
            inputs["logits_to_keep"] = _predicting(batch) - batch["labels"].shape[1]
        return model(**inputs)

    def trained_tokens(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return example and place, ``n x 2``, of each position that predicts a trained token.

        Places are counted among the positions that get logits.
        """
        if TRAINED_TOKENS in batch:
            return batch[TRAINED_TOKENS]
        labels, columns = batch["labels"], _predicting(batch)
        if labels.is_meta:
            return labels.new_empty((len(labels) * len(columns), 2))
        return (labels[:, columns + 1] >= 0).nonzero()

    def index_tensors(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the positions that get logits, and the places of the trained tokens."""
        return {PREDICTING: _predicting(batch), **super().index_tensors(batch)}

    def token_losses(
        self, outputs: Any, batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss of each trained token, and its example."""
        import torch.nn.functional as F

        labels, logits = batch["labels"], outputs.logits
        columns = _predicting(batch)
        if logits.shape[1] != len(columns):
            logits = logits[:, -labels.shape[1] :][:, columns]
        targets = labels[:, columns + 1]
        examples, places = self.trained_tokens(batch).unbind(1)
        losses = F.cross_entropy(
            logits[examples, places].float(), targets[examples, places], reduction="none"
        )
        return losses, examples

    def prompts(self, rows: Rows, tokenizer: Any, settings: EncodingSettings) -> list[list[int]]:
        """Return the prompts, or conversations up to the assistant's last turn."""
        from autopeft.workers.data.language import prompt_tokens

        refuse_plain_texts(rows)
        return prompt_tokens(rows, tokenizer, settings.max_tokens, settings.chat_template)

    def references(self, rows: Rows) -> list[str]:
        """Return the completions, or the assistant's last turns."""
        from autopeft.workers.data.language import reference_texts

        refuse_plain_texts(rows)
        return reference_texts(rows)


def _predicting(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the positions after which some example of the batch has a trained token.

    Where a batch without numbers does not bring them, all positions but the last.
    """
    labels = batch["labels"]
    if PREDICTING in batch:
        return batch[PREDICTING]
    if labels.is_meta:
        return labels.new_empty(labels.shape[1] - 1)
    return (labels[:, 1:] >= 0).any(dim=0).nonzero()[:, 0]


def _check_can_pack(model: Any) -> None:
    """Refuse what puts keys or tokens in front of a sequence of several examples."""
    config = getattr(model, "active_peft_config", None)
    if config is not None and config.is_prompt_learning:
        raise ModelError(
            f"{config.peft_type.value} goes before a sequence, and cannot be in one of several "
            "examples",
            hint="set training: {packing: false}, or leave prompt methods out of the space",
        )
