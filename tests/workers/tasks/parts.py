"""Splits of rows of any kind, and a tokenizer that cuts words into pieces."""

from __future__ import annotations

from functools import cache
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from autopeft.workers.dataset import DataSplits, Rows

_PIECES = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "paris", "is", "big", "ada", "love", "##lace", "spoke"),
    *("no", "one", "saw", "new", "york", "yes", "what", "was", "the", "cause", "?", "rain", "sun"),
)


def splits_of(
    train: Rows, validation: Rows, test: Rows, label_names: tuple[str, ...] | None = None
) -> DataSplits:
    """Return splits of these rows."""
    return DataSplits(
        splits={"train": train, "validation": validation, "test": test},
        text_columns=("some",),
        label_column="label",
        label_names=label_names,
        fingerprint="",
        provenance={},
    )


@cache
def word_pieces() -> Any:
    """Return a WordPiece tokenizer that frames texts as BERT's does."""
    vocabulary = {piece: number for number, piece in enumerate(_PIECES)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
