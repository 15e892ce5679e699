"""``autopeft methods``: one row a method, and what is available on a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autopeft.cli.catalogue import methods
from autopeft.errors import AutopeftError
from autopeft.search_spaces.extent import extent_of, reference_shape
from autopeft.search_spaces.method import METHODS, get_method
from tests.workers import families

COLUMNS = {
    "name",
    "family",
    "paper",
    "num_dimensions",
    "parameters",
    "is_placeable",
    "tasks",
    "is_mergeable",
    "deployable",
    "saved_as",
    "unavailable",
}


def rows(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, dict[str, Any]]:
    methods("json", *arguments)
    return {row["name"]: row for row in json.loads(capsys.readouterr().out)}


def test_there_is_a_row_for_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    listed = rows(capsys)

    assert set(listed) == set(METHODS.names())
    assert len(listed) >= 55
    assert all(set(row) >= COLUMNS for row in listed.values())


def test_what_needs_more_than_a_config_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    listed = rows(capsys)

    assert listed["poly"]["parameters"] is None
    assert "several tasks" in listed["poly"]["unavailable"]
    assert listed["lora"]["unavailable"] is None


def test_deployment_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    listed = rows(capsys)

    assert listed["lora"]["deployable"] == ["merged", "peft", "vllm"]
    assert listed["lily"]["deployable"] == ["peft"]


def test_a_model_decides_what_is_available(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = families.write(tmp_path / "tiny", "gpt2")
    listed = rows(capsys, str(folder), "causal-lm")

    assert listed["lora"]["unavailable"] is None
    assert "Conv1D" in listed["oft"]["unavailable"]
    assert listed["adaption-prompt"]["unavailable"] is None


def test_the_table_names_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = families.write(tmp_path / "tiny", "gpt2")
    methods("table", str(folder))

    assert "PEFT methods on tiny, causal-lm" in capsys.readouterr().out


def test_extremes_of_lora_by_hand() -> None:
    shape = reference_shape(is_decoder=False)
    extent = extent_of(get_method("lora"), shape)

    # One layer, one site of 768 x 768 at rank 1; all of twelve layers at rank 64 with DoRA.
    assert extent.smallest == 2 * 768
    widths = 4 * (768 + 768) + 2 * (768 + 3072)
    assert extent.largest == 12 * (64 * widths + 5 * 768 + 3072)


def test_experts_that_stay_frozen_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = families.write(tmp_path / "tiny", "mixtral")
    listed = rows(capsys, str(folder), "causal-lm")
    methods("table", str(folder))

    told = "the stacked experts are not adapted: their weights stay as they are"
    assert listed["lora-fa"]["remarks"] == [told]
    assert f"All methods but last-layers and lora: {told}" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize("is_file", [False, True])
@pytest.mark.parametrize(
    ("family", "task"),
    [("t5", "seq2seq-lm"), ("llama", "causal-lm"), ("vit", "image-classification")],
)
def test_a_config_alone_is_enough_and_says_the_task(
    family: str, task: str, is_file: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = families.write(tmp_path / "tiny", family, task)
    whole = rows(capsys, str(folder), task)
    methods("table", str(folder))
    assert f"on tiny, {task}" in capsys.readouterr().out
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    model = str(folder / "config.json" if is_file else folder)

    assert rows(capsys, model, task) == whole
    methods("table", model)
    assert f"on tiny, {task}" in capsys.readouterr().out


def test_a_wrong_task_is_told_before_the_model(tmp_path: Path) -> None:
    with pytest.raises(AutopeftError, match="summarisation"):
        methods("table", str(tmp_path / "nowhere"), "summarisation")


def test_bias_says_that_there_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = rows(capsys, str(families.write(tmp_path / "tiny", "llama")), "causal-lm")
    assert listed["bias"]["unavailable"] == "the layers of llama have no biases"
