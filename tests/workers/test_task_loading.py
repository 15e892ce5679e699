"""Words, choices, pictures and sounds, from files to examples."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autopeft.errors import DataError
from autopeft.workers.dataset import SPLIT_NAMES
from autopeft.workers.loading import load_splits
from autopeft.workers.settings import DataSettings
from autopeft.workers.tasks.base import TASKS, infer_task
from tests.workers.data.rows import write_jsonl

NAMES = ("O", "B-x", "I-x")


def load(folder: Path, rows: list[dict[str, Any]], task: str = "auto", **settings: Any) -> Any:
    write_jsonl(folder / "train.jsonl", rows)
    data = DataSettings.model_validate({"train": "train.jsonl", **settings})
    return load_splits(data, base=folder, seed=0, task=task)


def tagged(num_rows: int) -> list[dict[str, Any]]:
    return [{"tokens": ["a", f"w{i}"], "tags": [0, 1 + i % 2]} for i in range(num_rows)]


def pictures(num_rows: int, size: int) -> list[dict[str, Any]]:
    contents = [base64.b64encode(bytes([i]) * size).decode() for i in range(num_rows)]
    return [
        {"pixels_b64": content, "label": i % 2, "file": f"{i % 2}.png"}
        for i, content in enumerate(contents)
    ]


def test_tags_get_the_jobs_names_in_every_split(tmp_path: Path) -> None:
    splits = load(tmp_path, tagged(40), label_names=NAMES)
    encoding = TASKS.get(infer_task(splits))().encode_labels(splits)

    assert {tag for s in SPLIT_NAMES for row in splits.splits[s].label for tag in row} == {*NAMES}
    assert encoding.id2label == NAMES
    assert sum(len(splits.splits[s]) for s in SPLIT_NAMES) == 40


def test_names_beside_the_data_are_those_of_every_split(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text('{"label_names": ["O", "B-x", "I-x"]}')
    write_jsonl(tmp_path / "validation.jsonl", tagged(10))
    splits = load(tmp_path, tagged(40), validation="validation.jsonl")
    assert splits.splits["validation"].label[0] == ["O", "B-x"]


def test_classes_get_the_jobs_names(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": i % 2} for i in range(40)]
    splits = load(tmp_path, rows, label_names=["no", "yes", "maybe"])
    encoding = TASKS.get("classification")().encode_labels(splits)
    assert encoding.id2label == ("no", "yes", "maybe")


def test_names_for_labels_that_are_names_already_are_refused(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(40)]
    with pytest.raises(DataError, match="names 2 labels, but the labels are no numbers from 0 to"):
        load(tmp_path, rows, label_names=["no", "yes"])


def test_pictures_are_cut_by_class_and_never_parted_from_their_copies(tmp_path: Path) -> None:
    rows = pictures(40, 12) + pictures(4, 12)
    splits = load(tmp_path, rows)
    task = TASKS.get(infer_task(splits))()

    assert task.name == "image-classification"
    assert splits.text_columns == ("pixels_b64",)
    assert splits.splits["train"].columns["image"][0].shape == (2, 2, 3)
    keys = [set(task.keys(splits.splits[split])) for split in SPLIT_NAMES]
    assert not keys[0] & keys[1] | keys[0] & keys[2] | keys[1] & keys[2]


def test_the_jobs_shape_of_pictures_is_taken(tmp_path: Path) -> None:
    splits = load(tmp_path, pictures(40, 12), image_shape=[6, 2, 1])
    assert splits.splits["train"].columns["image"][0].shape == (6, 2, 1)


def test_the_jobs_sample_rate_is_taken(tmp_path: Path) -> None:
    rows = [
        {"pcm16_b64": base64.b64encode(bytes([i, 1] * 9)).decode(), "label": i % 2}
        for i in range(40)
    ]
    splits = load(tmp_path, rows, sample_rate=8000)
    assert infer_task(splits) == "audio-classification"
    assert set(splits.splits["test"].columns["sample_rate"]) == {8000}


def test_the_fingerprint_tells_pictures_apart(tmp_path: Path) -> None:
    rows = pictures(40, 12)
    first = load(tmp_path, rows).fingerprint
    assert load(tmp_path, rows).fingerprint == first
    rows[3]["pixels_b64"] = base64.b64encode(bytes(range(12))).decode()
    assert load(tmp_path, rows).fingerprint != first


@pytest.mark.parametrize(
    ("name", "task", "num_outputs"),
    [
        ("wnut17", "token-classification", 13),
        ("copa", "multiple-choice", 1),
        ("arc_easy", "multiple-choice", 1),
        ("openbookqa", "multiple-choice", 1),
        ("cifar10_small", "image-classification", 10),
        ("mnist_small", "image-classification", 10),
        ("fsdd_small", "audio-classification", 10),
    ],
)
def test_real_data_sets_are_recognised(
    data_folder: Path, name: str, task: str, num_outputs: int
) -> None:
    if not (data_folder / name).is_dir():
        pytest.skip(f"the folder of data sets holds no {name}")
    data = DataSettings(train="validation.jsonl", limit={"train": 40})
    splits = load_splits(data, base=data_folder / name, seed=0, task="auto")
    encoding = TASKS.get(task)().encode_labels(splits)

    assert infer_task(splits) == task
    assert encoding.num_outputs == num_outputs
    assert "file" not in splits.text_columns
    assert all(np.all(np.isfinite(encoding.labels[split])) for split in SPLIT_NAMES)
