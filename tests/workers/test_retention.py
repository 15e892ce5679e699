"""Retention: the rise of the base model's own loss on a probe set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autopeft.errors import DataError, InvalidJobError
from autopeft.workers.dataset import INPUT_IDS, EncodedSplit
from autopeft.workers.retention import Retention, read_probe
from autopeft.workers.settings import RetentionSettings
from tests.workers import tiny_lm


def probe_of(base: Path, task: str = "causal-lm", **settings: Any) -> EncodedSplit:
    return read_probe(
        RetentionSettings(**settings),
        base=base,
        task=task,
        tokenizer=tiny_lm.make_tokenizer(),
        seed=0,
    )


def write_texts(folder: Path, number: int) -> None:
    lines = [json.dumps({"text": f"one two {i}", "other": i}) for i in range(number)]
    (folder / "general.jsonl").write_text("\n".join([*lines, '{"text": " ", "other": 1}']) + "\n")


def test_texts_of_a_file_are_trained_on_whole(tmp_path: Path) -> None:
    write_texts(tmp_path, 6)
    probe = probe_of(tmp_path, data="general.jsonl")
    assert len(probe) == 6
    labels, ids = probe.fields["labels"], probe.fields[INPUT_IDS]
    assert (labels.example(0)[1:] == ids.example(0)[1:]).all()


def test_rows_and_tokens_are_limited(tmp_path: Path) -> None:
    write_texts(tmp_path, 30)
    probe = probe_of(tmp_path, data="general.jsonl", rows=10, max_tokens=4)
    assert len(probe) == 10
    assert probe.lengths.max() == 4
    again = probe_of(tmp_path, data="general.jsonl", rows=10, max_tokens=4)
    assert (again.fields[INPUT_IDS].values == probe.fields[INPUT_IDS].values).all()


@pytest.mark.parametrize("task", ["classification", "seq2seq-lm", "image-classification"])
def test_other_tasks_have_no_retention(tmp_path: Path, task: str) -> None:
    with pytest.raises(InvalidJobError, match=f"a model for {task} does not have"):
        probe_of(tmp_path, task)


def test_a_file_without_the_column_is_refused(tmp_path: Path) -> None:
    write_texts(tmp_path, 3)
    with pytest.raises(DataError, match="has no column 'body'; it has text, other"):
        probe_of(tmp_path, data="general.jsonl", column="body")
    with pytest.raises(DataError, match=r"column 'other' of general\.jsonl holds no text"):
        probe_of(tmp_path, data="general.jsonl", column="other")


def test_the_rise_is_over_the_base_asked_once(tmp_path: Path) -> None:
    write_texts(tmp_path, 3)
    probe = probe_of(tmp_path, data="general.jsonl")
    asked: list[str] = []

    def mean_loss(model: str, split: EncodedSplit) -> float:
        assert split is probe
        asked.append(model)
        return {"base": 2.0, "worse": 2.5, "better": 1.75}[model]

    retention = Retention(probe, mean_loss, "base")
    assert asked == []
    assert retention.rise("worse") == 0.5
    assert retention.rise("better") == -0.25
    assert asked.count("base") == 1
