"""What every export of a job needs besides the adapter: tokenizer files and facts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from autopeft.errors import JobFolderError
from autopeft.workers.generation import stop_tokens
from autopeft.workers.model_sources import ModelSource
from autopeft.workers.models import kept_in_full, load_config, load_tokenizer
from autopeft.workers.processors import load_processor
from autopeft.workers.tasks.base import TASKS
from autopeft.workers.tasks.language_model import LanguageModelTask

SCHEMA_VERSION = 1
FACTS_FILE = "autopeft.json"
#: What a job must say of itself, besides what the model source says.
FACTS = ("task", "metric", "id2label", "num_labels", "max_tokens", "text_columns")


def write_assets(
    folder: Path,
    source: ModelSource,
    *,
    facts: Mapping[str, Any],
    chat_template: str | None = None,
) -> None:
    """Write the job's ``assets`` folder; one that stands there already is replaced whole.

    It holds the tokenizer (or processor) as ``save_pretrained`` writes it, and ``autopeft.json``:
    the facts given here, how the base model is named and loaded, how batches are padded, and for
    language models which tokens end an answer. No path of this machine is in it.

    Args:
        folder: Where to write.
        source: The base model; only its public name is kept.
        facts: JSON-able, with everything in :data:`FACTS`.
        chat_template: Replaces the tokenizer's own, as it did in training.

    Raises:
        ModelError: the tokenizer or processor cannot be loaded.
        ValueError: a fact is missing.
    """
    missing = [name for name in FACTS if name not in facts]
    if missing:
        raise ValueError(f"facts lack {', '.join(missing)}")
    task = TASKS.get(facts["task"])
    if task.modality == "text":
        processor = load_tokenizer(source)
        padding = {"side": processor.padding_side, "pad_token_id": processor.pad_token_id}
        if issubclass(task, LanguageModelTask):
            facts = {**facts, "stop_ids": list(stop_tokens(processor))}
        if chat_template is not None:
            processor.chat_template = chat_template
    else:
        config = load_config(source, facts["num_labels"], facts["id2label"], facts["task"])
        processor = load_processor(source, config, task.modality)
        padding = {"side": "right", "pad_token_id": 0}
    if source.quantization is not None:
        config = load_config(source, facts["num_labels"], facts["id2label"], facts["task"])
        facts = {**facts, "kept_in_full": list(kept_in_full(source, config, facts["task"]))}
    everything = {
        "schema_version": SCHEMA_VERSION,
        "base_model": source.public_name,
        "is_local_model": source.is_local_only,
        "revision": source.revision,
        "trust_remote_code": source.trust_remote_code,
        "auto_class": task.auto_class,
        "modality": task.modality,
        "padding": padding,
        **facts,
    }
    writing = folder.with_name(f".{folder.name}-{uuid4().hex}")
    try:
        writing.mkdir(parents=True)
        processor.save_pretrained(writing)
        _forget_paths(writing / "tokenizer_config.json", source)
        text = json.dumps(everything, indent=2, ensure_ascii=False)
        (writing / FACTS_FILE).write_text(text, encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        writing.rename(folder)
    except BaseException:
        shutil.rmtree(writing, ignore_errors=True)
        raise


def read_assets(folder: Path) -> dict[str, Any]:
    """Return the facts in ``autopeft.json`` of an assets or export folder.

    Raises:
        JobFolderError: missing, damaged, or of another schema version.
    """
    path = folder / FACTS_FILE
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        version = facts["schema_version"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise JobFolderError(f"cannot read {path}: {error}") from error
    if version != SCHEMA_VERSION:
        raise JobFolderError(
            f"{path} has schema version {version!r}, this AutoPEFT reads {SCHEMA_VERSION}",
            hint="open it with the AutoPEFT version that wrote it",
        )
    assert isinstance(facts, dict)
    return facts


def _forget_paths(path: Path, source: ModelSource) -> None:
    """Put the public name where transformers noted the folder the tokenizer came from."""
    if not path.is_file():
        return
    config = json.loads(path.read_text(encoding="utf-8"))
    kept = {
        key: source.public_name if key == "name_or_path" else value
        for key, value in config.items()
        if value != source.location or key == "name_or_path"
    }
    path.write_text(json.dumps(kept, indent=2, ensure_ascii=False), encoding="utf-8")
