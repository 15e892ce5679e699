"""Jobs on words, choices, pictures and sounds: real data sets, models made from a config."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from tests.workers import families

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
DATA_SETS = {
    "wnut17": "token-classification",
    "copa": "multiple-choice",
    "cifar10_small": "image-classification",
    "fsdd_small": "audio-classification",
}


def write_job(folder: Path, data: Path, name: str, /, **changes: Any) -> Path:
    """Write a model and a job file for one of :data:`DATA_SETS`, and return the job file.

    Args:
        folder: Where to write.
        data: Folder of data sets.
        name: The data set.
        changes: Keys of the job file; ``sizes`` changes the model's config.
    """
    sizes = changes.pop("sizes", {})
    write_model(folder / "model", data / name, name, sizes)
    job: dict[str, Any] = {
        "name": name,
        "model": "model",
        "task": "auto",
        "data": {
            **{split: str(data / name / f"{split}.jsonl") for split in ("train", "validation")},
            "test": str(data / name / "test.jsonl"),
            "limit": {"train": 64, "validation": 40, "test": 40},
        },
        "space": {
            "combine": "one",
            "methods": {
                "lora": {"dora": False, "rslora": False, "sites": [["q", "v"]]},
                "ia3": {"sites": [["k", "v"]]},
            },
        },
        "training": {"batch_size": 8, "max_tokens": 32, "steps": 8},
        "budget": {"trials": 3},
        "workers": {"executor": "inline", "cpus": 1},
        "output": str(folder / "run"),
        **changes,
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def write_model(folder: Path, data: Path, name: str, sizes: dict[str, Any]) -> None:
    """Write a random base model without a head, and a tokenizer where it reads text."""
    made = {
        "cifar10_small": families.vit,
        "fsdd_small": families.ast,
    }.get(name, families.bert)
    tokenizer = None
    if made is families.bert:
        tokenizer = word_piece(texts_of(data / "train.jsonl"), size=sizes.pop("vocabulary", 400))
        sizes = {"vocab_size": len(tokenizer), **sizes}
    config = type(made())(**{**made().to_dict(), **sizes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.AutoModel.from_config(config).save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def texts_of(path: Path) -> Iterator[str]:
    """Yield every text of a file with words or choices."""
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield " ".join(row["tokens"]) if "tokens" in row else row["text"]
        yield from row.get("choices", ())


def word_piece(texts: Iterator[str], size: int) -> Any:
    """Return a lower-casing WordPiece tokenizer that frames texts as BERT's does."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=list(SPECIAL), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    cls, sep = (tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", cls), ("[SEP]", sep)],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
