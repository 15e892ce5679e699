from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from autopeft.errors import JobFolderError
from autopeft.workers import assets
from autopeft.workers.assets import read_assets, write_assets
from autopeft.workers.models import load_tokenizer
from autopeft.workers.worker import WorkerPlan

FACTS: dict[str, Any] = {
    "task": "classification",
    "metric": "accuracy",
    "id2label": ["bad", "good", "none"],
    "num_labels": 3,
    "max_tokens": 12,
    "text_columns": ["sentence"],
}


def test_facts(tmp_path: Path, tiny_plan: WorkerPlan) -> None:
    write_assets(tmp_path / "assets", tiny_plan.source, facts=FACTS)

    assert read_assets(tmp_path / "assets") == {
        **FACTS,
        "schema_version": 1,
        "base_model": "tiny-bert",
        "is_local_model": True,
        "revision": None,
        "trust_remote_code": False,
        "auto_class": "AutoModelForSequenceClassification",
        "modality": "text",
        "padding": {"side": "right", "pad_token_id": 0},
    }


def test_tokenizer_is_the_models_own(tmp_path: Path, tiny_plan: WorkerPlan) -> None:
    write_assets(tmp_path / "assets", tiny_plan.source, facts=FACTS)
    ours, theirs = (
        tokenizer(["a good film", "plot"], ["bad", "a song"])["input_ids"]
        for tokenizer in (
            load_tokenizer(tiny_plan.source),
            AutoTokenizer.from_pretrained(tmp_path / "assets"),
        )
    )

    assert ours == theirs


def test_no_path_of_this_machine_is_written(tmp_path: Path, tiny_plan: WorkerPlan) -> None:
    write_assets(tmp_path / "assets", tiny_plan.source, facts=FACTS)
    written = b"".join(path.read_bytes() for path in (tmp_path / "assets").iterdir())

    assert tiny_plan.source.location.encode() not in written
    assert str(tmp_path).encode() not in written


def test_what_stood_there_is_replaced(tmp_path: Path, tiny_plan: WorkerPlan) -> None:
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "half").write_text("of a killed driver")
    write_assets(tmp_path / "assets", tiny_plan.source, facts=FACTS)

    assert not (tmp_path / "assets" / "half").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["assets"]


def test_failure_leaves_nothing(
    tmp_path: Path, tiny_plan: WorkerPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(assets, "_forget_paths", full)
    with pytest.raises(OSError, match="No space left"):
        write_assets(tmp_path / "assets", tiny_plan.source, facts=FACTS)

    assert list(tmp_path.iterdir()) == []


def test_missing_fact_is_named(tmp_path: Path, tiny_plan: WorkerPlan) -> None:
    with pytest.raises(ValueError, match="facts lack max_tokens"):
        write_assets(
            tmp_path / "assets",
            tiny_plan.source,
            facts={key: value for key, value in FACTS.items() if key != "max_tokens"},
        )


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_broken_facts_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "autopeft.json").write_text(text)
    with pytest.raises(JobFolderError, match=r"cannot read .*autopeft\.json"):
        read_assets(tmp_path)


def test_other_schema_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "autopeft.json").write_text('{"schema_version": 99}')
    with pytest.raises(JobFolderError, match="schema version 99, this AutoPEFT reads 1"):
        read_assets(tmp_path)
