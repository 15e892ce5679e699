"""Data sets of the hub: splits, names of labels, and what is said when it cannot be reached."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from autopeft.errors import DataError
from autopeft.workers.dataset import DataSplits
from autopeft.workers.loading import load_splits
from autopeft.workers.settings import DataSettings

datasets = pytest.importorskip("datasets")


def load(**settings: Any) -> DataSplits:
    data = DataSettings.model_validate({"name": "someone/something", **settings})
    return load_splits(data, base=Path(), seed=0, task="auto")


def part(num_rows: int, *, is_secret: bool = False) -> Any:
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    labels = [-1 if is_secret else i % 2 for i in range(num_rows)]
    texts = [f"text {i} of {num_rows}" for i in range(num_rows)]
    return datasets.Dataset.from_dict({"sentence": texts, "label": labels}, features=features)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stand in for the network: what ``load_dataset`` returns."""
    splits: dict[str, Any] = {"train": part(40), "validation": part(8)}

    def load_dataset(name: str, config: str | None = None) -> Any:
        assert (name, config) == ("someone/something", None)
        return datasets.DatasetDict(splits)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return splits


def test_splits_columns_and_label_names_are_found(hub: dict[str, Any]) -> None:
    hub["test"] = part(6)
    splits = load()
    assert {name: len(rows) for name, rows in splits.splits.items()} == {
        "train": 40,
        "validation": 8,
        "test": 6,
    }
    assert splits.label_names == ("no", "yes")
    assert splits.text_columns == ("sentence",)
    assert splits.provenance["splits"] == {name: name for name in ("train", "validation", "test")}


def test_a_test_split_with_secret_labels_is_cut_from_train_instead(hub: dict[str, Any]) -> None:
    hub["test"] = part(6, is_secret=True)
    splits = load()
    assert splits.provenance["cut_from_train"] == ["test"]
    assert set(splits.splits["test"].label) == {0, 1}


def test_a_test_split_asked_for_must_have_labels(hub: dict[str, Any]) -> None:
    hub["test"] = part(6, is_secret=True)
    with pytest.raises(DataError, match=r"split test, row 0: the label .* is missing"):
        load(test="test")


def test_splits_can_be_named(hub: dict[str, Any]) -> None:
    hub["dev"] = part(12)
    splits = load(validation="dev")
    assert len(splits.splits["validation"]) == 12
    with pytest.raises(DataError, match=r"no split 'validatoin'; did you mean 'validation'"):
        load(validation="validatoin")


def test_a_data_set_without_training_split_is_refused(hub: dict[str, Any]) -> None:
    del hub["train"]
    with pytest.raises(DataError, match="no split 'train'") as caught:
        load()
    assert caught.value.hint is not None
    assert "validation" in caught.value.hint


def test_without_the_library_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="is not installed") as caught:
        load()
    assert caught.value.hint is not None
    assert "pip install 'autopeft[hub]'" in caught.value.hint


def test_without_a_network_the_message_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="cannot be loaded from the hub") as caught:
        load(name="nobody/no-such-data-set")
    assert caught.value.hint is not None
    assert "local files" in caught.value.hint
