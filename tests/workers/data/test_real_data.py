"""Real data sets, read as a job would; skipped where the folder is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopeft.workers.data.splitting import text_keys
from autopeft.workers.dataset import SPLIT_NAMES
from autopeft.workers.loading import load_splits
from autopeft.workers.settings import DataSettings
from autopeft.workers.tasks.base import TASKS, infer_task

FACTS = {
    "sst2": ("classification", ("text",), 2, (19998, 872, 1821)),
    "stsb": ("regression", ("text_a", "text_b"), 1, (5734, 1500, 1379)),
    "banking77": ("classification", ("text",), 77, (8971, 998, 3080)),
    "subj": ("classification", ("text",), 2, (8000, 1000, 1000)),
    "cola": ("classification", ("text",), 2, (7493, 1043, 1043)),
}


@pytest.fixture
def folder(data_folder: Path, name: str) -> Path:
    if not (data_folder / name).is_dir():
        pytest.skip(f"the folder of data sets holds no {name}")
    return data_folder / name


@pytest.mark.parametrize("name", FACTS)
def test_files_are_read_and_the_task_is_found_out(folder: Path, name: str) -> None:
    task_name, text_columns, num_outputs, sizes = FACTS[name]
    files = {split: f"{split}.jsonl" for split in SPLIT_NAMES}
    splits = load_splits(DataSettings.model_validate(files), base=folder, seed=0, task="auto")
    assert tuple(len(splits.splits[split]) for split in SPLIT_NAMES) == sizes
    assert splits.text_columns == text_columns
    assert infer_task(splits) == task_name
    task = TASKS.get(task_name)()
    encoding = task.encode_labels(splits)
    assert encoding.num_outputs == num_outputs
    assert (splits.label_names is None) == (task_name == "regression")
    assert all(task.chance_score(encoding, m) < task.ideal_score(m) for m in task.metrics)


@pytest.mark.parametrize("name", FACTS)
def test_splits_are_cut_where_only_training_rows_are_given(folder: Path, name: str) -> None:
    data = DataSettings.model_validate({"train": "train.jsonl", "limit": {"train": 200}})
    splits = load_splits(data, base=folder, seed=0, task="auto")
    keys = {split: set(text_keys(splits.splits[split])) for split in SPLIT_NAMES}
    assert not keys["train"] & keys["validation"]
    assert not keys["train"] & keys["test"]
    assert not keys["validation"] & keys["test"]
    assert len(splits.splits["train"]) == 200
    if FACTS[name][0] == "classification":
        assert len(set(splits.splits["train"].label)) == FACTS[name][2]
