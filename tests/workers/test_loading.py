"""From settings to three splits: what is cut, limited, handled and refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from autopeft.errors import DataError
from autopeft.workers.data import DataWarning
from autopeft.workers.data.splitting import text_keys
from autopeft.workers.dataset import SPLIT_NAMES, DataSplits
from autopeft.workers.loading import fingerprint, load_splits
from autopeft.workers.settings import DataSettings
from autopeft.workers.tasks.base import infer_task
from tests.workers.data.rows import labelled, write_jsonl

META_OF_NUMBERS = '{"label_names": [3, 4]}'


def load(base: Path, *, seed: int = 0, task: str = "auto", **settings: Any) -> DataSplits:
    data = DataSettings.model_validate({"train": "train.jsonl", **settings})
    return load_splits(data, base=base, seed=seed, task=task)


def sizes(splits: DataSplits) -> tuple[int, ...]:
    return tuple(len(splits.splits[split]) for split in SPLIT_NAMES)


def test_missing_splits_are_cut_from_train_in_proportion(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", labelled(400, ["a", "a", "a", "b"]))
    splits = load(tmp_path)
    assert sizes(splits) == (280, 60, 60)
    assert Counter(splits.splits["validation"].label) == {"a": 45, "b": 15}
    assert splits.provenance["cut_from_train"] == ["validation", "test"]
    texts = [text for split in SPLIT_NAMES for text in splits.splits[split].text]
    assert len(set(texts)) == 400


def test_given_splits_are_left_alone(tmp_path: Path) -> None:
    for split, num_rows in (("train", 20), ("validation", 6), ("test", 4)):
        write_jsonl(tmp_path / f"{split}.jsonl", labelled(num_rows))
    splits = load(tmp_path, validation="validation.jsonl", test="test.jsonl")
    assert sizes(splits) == (20, 6, 4)
    assert splits.provenance["cut_from_train"] == []
    assert splits.provenance["num_texts_also_in_train"] == {"validation": 6, "test": 4}


def test_equal_texts_never_fall_on_both_sides_of_a_cut(tmp_path: Path) -> None:
    rows = [{"text": f"Example {i % 40}!", "label": i % 2} for i in range(200)]
    splits = load(write_jsonl(tmp_path / "train.jsonl", rows).parent)
    keys = [set(text_keys(splits.splits[split])) for split in SPLIT_NAMES]
    assert sum(map(len, keys)) == len(set.union(*keys)) == 40
    assert sum(sizes(splits)) == 200


def test_limits_keep_proportions_and_every_class(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", labelled(600, ["a"] * 9 + ["b"]) + labelled(3, ["c"]))
    splits = load(tmp_path, limit={"train": 50, "validation": 20, "test": 10})
    assert sizes(splits) == (50, 20, 10)
    counts = Counter(splits.splits["train"].label)
    assert counts["c"] == 1
    assert counts["b"] in (5, 6)


def test_the_same_seed_gives_the_same_rows_in_another_process(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", labelled(100, ["yes", "no", "perhaps"]))
    code = (
        "import sys; from pathlib import Path\n"
        "from autopeft.workers.loading import load_splits\n"
        "from autopeft.workers.settings import DataSettings\n"
        "s = DataSettings.model_validate({'train': 'train.jsonl', 'limit': {'train': 30}})\n"
        "print(load_splits(s, base=Path(sys.argv[1]), seed=3, task='auto').fingerprint)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    here = load(tmp_path, seed=3, limit={"train": 30}).fingerprint
    assert run.stdout.strip() == here
    assert load(tmp_path, seed=4, limit={"train": 30}).fingerprint != here


def test_the_fingerprint_sees_every_row(tmp_path: Path) -> None:
    rows = labelled(40)
    before = load(write_jsonl(tmp_path / "train.jsonl", rows).parent)
    assert before.fingerprint == fingerprint(before.splits)
    rows[17] = {**rows[17], "text": "Example 17"}
    after = load(write_jsonl(tmp_path / "train.jsonl", rows).parent)
    assert before.fingerprint != after.fingerprint


def test_provenance_is_json(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", labelled(40))
    provenance = load(tmp_path).provenance
    assert json.loads(json.dumps(provenance)) == provenance
    assert provenance["files"] == {"train": "train.jsonl"}


def test_pairs_are_read_as_pairs(tmp_path: Path) -> None:
    rows = [{"premise": f"p {i}", "hypothesis": f"h {i}", "label": i % 3} for i in range(30)]
    splits = load(write_jsonl(tmp_path / "train.jsonl", rows).parent)
    assert splits.text_columns == ("premise", "hypothesis")
    pairs = splits.splits["train"]
    assert pairs.text_pair is not None
    assert [a[2:] for a in pairs.text] == [b[2:] for b in pairs.text_pair]


def test_rows_with_empty_texts_are_left_out_with_a_warning(tmp_path: Path) -> None:
    rows = [*labelled(30), {"text": "  ", "label": 0}, {"text": None, "label": 1}]
    write_jsonl(tmp_path / "train.jsonl", rows)
    with pytest.warns(DataWarning, match=r"left out 2 rows .* train\.jsonl, line 31"):
        splits = load(tmp_path)
    assert sum(sizes(splits)) == 30
    assert splits.provenance["num_rows_with_empty_text_left_out"] == {"train": 2}


def test_a_file_of_mostly_empty_texts_is_refused(tmp_path: Path) -> None:
    rows = [{"text": "" if i % 3 else "text", "label": i % 2} for i in range(30)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    with pytest.raises(DataError, match="20 of 30 rows have an empty text"):
        load(tmp_path)


def test_halves_of_surrogate_pairs_are_made_sound(tmp_path: Path) -> None:
    rows = [{"text": f"{i} \ud83d\ude42 \ud83d", "label": f"{i % 2}\udead"} for i in range(20)]
    splits = load(write_jsonl(tmp_path / "train.jsonl", rows).parent)
    text, label = splits.splits["train"].text[0], splits.splits["train"].label[0]
    assert text.endswith(" 🙂 \ufffd")
    assert label.endswith("\ufffd")


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        ((0, 1), "classification"),
        (("a", "b"), "classification"),
        ((0.5, 1.5, 2.5, 3.5), "regression"),
    ],
)
def test_the_task_is_told_from_loaded_rows(
    tmp_path: Path, labels: tuple[Any, ...], task: str
) -> None:
    write_jsonl(tmp_path / "train.jsonl", labelled(20, labels))
    assert infer_task(load(tmp_path)) == task


def test_whole_numbers_can_be_amounts_on_request(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", labelled(20, [1, 2, 3]))
    labels = load(tmp_path, task="regression").splits["train"].label
    assert set(map(type, labels)) == {float}


def test_label_names_stand_in_meta_json(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", labelled(20))
    meta = tmp_path / "meta.json"
    meta.write_text(json.dumps({"label_names": ["no", "yes"]}))
    assert load(tmp_path).label_names == ("no", "yes")
    write_jsonl(tmp_path / "train.jsonl", labelled(20, [1, 2]))
    with pytest.warns(DataWarning, match="labels run from 1 to 2, but 2 label names"):
        assert load(tmp_path).label_names is None


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"label_names": null}', '{"label_names": [3]}']
)
def test_another_meta_json_says_nothing(tmp_path: Path, content: str) -> None:
    write_jsonl(tmp_path / "train.jsonl", labelled(20))
    (tmp_path / "meta.json").write_text(content)
    assert load(tmp_path).label_names is None


def test_a_label_that_training_lacks_is_refused_with_its_place(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", labelled(20, ["a", "b"]))
    write_jsonl(tmp_path / "dev.jsonl", labelled(6, ["a", "b", "c"]))
    with pytest.raises(DataError, match=r"dev\.jsonl, line 3: no training row has the label 'c'"):
        load(tmp_path, validation="dev.jsonl")


REFUSED: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "too few rows": (labelled(6), {}, "train has 6 rows; expected at least 10 to cut validation"),
    "one text": ([{"text": "same", "label": i % 2} for i in range(40)], {}, "equal text to cut"),
    "one question": (
        [{"prompt": "same", "completion": f"answer {i}"} for i in range(40)],
        {},
        "too many of equal prompt to cut",
    ),
    "one beginning": (
        [
            {
                "messages": [
                    {"role": "user", "content": "same"},
                    {"role": "assistant", "content": f"answer {i}"},
                ]
            }
            for i in range(40)
        ],
        {},
        "40 rows, too many whose messages before the first answer are equal to cut",
    ),
    "one class": (labelled(40, ["a"]), {}, "every label in column 'label' is 'a'"),
    "one number": (labelled(40, [0.5]), {}, "every label in split train is 0.5"),
    "tight limit": (
        labelled(40, ["a", "b", "c"]),
        {"limit": {"train": 2}},
        r"data\.limit\.train is 2; expected at least 3",
    ),
    "one row left": (labelled(40), {"limit": {"validation": 1}}, "split validation has 1 rows"),
    "one class left": (
        labelled(400, ["a"] * 19 + ["b"]),
        {"limit": {"validation": 3}},
        "every label in split validation is 'a'",
    ),
    "one file twice": (labelled(40), {"test": "train.jsonl"}, "one file for two splits"),
    "numbers for text": ([{"text": 3, "label": 1}] * 9, {}, "line 1: column 'text' holds a int"),
    "no train": (labelled(40), {"train": None}, "neither a training file nor a data set"),
    "unknown builtin": (
        labelled(40),
        {"train": None, "name": "builtin:docstring"},
        "did you mean 'builtin:docstrings'",
    ),
    "absent column": (labelled(40), {"columns": {"text": "txt"}}, "did you mean 'text'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_data_that_cannot_be_used_is_refused(tmp_path: Path, case: str) -> None:
    rows, settings, message = REFUSED[case]
    write_jsonl(tmp_path / "train.jsonl", rows)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path, **settings)
    assert caught.value.hint


def test_another_split_must_have_the_same_columns(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", labelled(20))
    write_jsonl(tmp_path / "dev.jsonl", [{"text": "a", "class": 1}])
    with pytest.raises(DataError, match=r"dev\.jsonl: has no column 'label'"):
        load(tmp_path, validation="dev.jsonl")


def test_paths_may_be_absolute(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "elsewhere" / "train.jsonl", labelled(20))
    assert sum(sizes(load(tmp_path, train=str(file)))) == 20
