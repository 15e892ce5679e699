"""What every export of a job needs besides the adapter: tokenizer files and facts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from autopeft.errors import JobFolderError
from autopeft.workers.models import ModelSource

SCHEMA_VERSION = 1
FACTS_FILE = "autopeft.json"


def write_assets(
    folder: Path,
    source: ModelSource,
    tokenizer: Any,
    *,
    task: str,
    metric: str,
    id2label: Sequence[str] | None,
    num_labels: int,
    max_tokens: int,
    text_columns: Sequence[str],
) -> None:
    """Write the job's ``assets`` folder; one that stands there already is replaced whole.

    It holds the tokenizer as ``save_pretrained`` writes it, and ``autopeft.json``. No path of
    this machine is in it.

    Args:
        folder: Where to write.
        source: The base model; only its public name is kept.
        tokenizer: Its tokenizer.
        task: Name of the task.
        metric: The metric the search scored on.
        id2label: Class names by class number; None for regression.
        num_labels: Outputs of the task head.
        max_tokens: Longer texts are truncated to this.
        text_columns: Names of the one or two text columns.
    """
    facts = {
        "schema_version": SCHEMA_VERSION,
        "base_model": source.public_name,
        "revision": source.revision,
        "trust_remote_code": source.trust_remote_code,
        "task": task,
        "metric": metric,
        "id2label": None if id2label is None else list(id2label),
        "num_labels": num_labels,
        "max_tokens": max_tokens,
        "text_columns": list(text_columns),
        "padding": {"side": tokenizer.padding_side, "pad_token_id": tokenizer.pad_token_id},
    }
    writing = folder.with_name(f".{folder.name}-{uuid4().hex}")
    try:
        writing.mkdir(parents=True)
        tokenizer.save_pretrained(writing)
        _forget_paths(writing / "tokenizer_config.json", source)
        text = json.dumps(facts, indent=2, ensure_ascii=False)
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
