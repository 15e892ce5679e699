"""What a check and a search refuse alike, before a trial is trained."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from autopeft.errors import AutopeftError, InvalidJobError
from autopeft.results.front import Constraint
from autopeft.search_spaces.space import load_space
from autopeft.service.examination import TASK_OF_BUILTIN_DATA, examine_at_hand, read_data
from autopeft.service.feasibility import check_memory
from autopeft.service.job_spec import JobSpec, load_job, parse_job
from autopeft.service.observer import SilentObserver
from autopeft.service.running import run_job
from autopeft.workers.data.table import DataWarning
from tests.search_spaces.shapes import bert_shape
from tests.service.tiny_job import write_tiny_job

Refuse = Callable[[JobSpec, Path], AutopeftError]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_job(tmp_path_factory.mktemp("examined"))


def by_check(spec: JobSpec, folder: Path) -> AutopeftError:
    with pytest.raises(AutopeftError) as caught:
        examine_at_hand(spec)
    return caught.value


def by_search(spec: JobSpec, folder: Path) -> AutopeftError:
    with pytest.raises(AutopeftError) as caught:
        run_job(spec, folder, observer=SilentObserver())
    assert not folder.exists()
    return caught.value


#: Settings under which the classification job of ``tiny`` cannot be searched.
REFUSED: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "vllm": ({"space.deploy": "vllm"}, "vLLM serves an adapter without a task head"),
    "packing": ({"training.packing": True}, "training.packing: is for task causal-lm"),
    "retention": ({"objectives": ["accuracy", "retention"]}, "objectives: retention is the loss"),
    "retention's limit": (
        {"constraints.retention": {"max": 0.1}},
        "constraints.retention: retention is the loss",
    ),
    "answers": ({"metric": "token_f1"}, "metric: scores generated answers"),
    "another metric": ({"objectives": ["pearson"]}, "metric 'pearson' does not fit the task"),
    "another limit": ({"constraints.f1": {"min": 0.5}}, "only the job's own metric, accuracy"),
    "one batch": ({"training.batch_size": 64}, "fewer than one batch of 64"),
}


@pytest.mark.filterwarnings("ignore::autopeft.workers.data.table.DataWarning")
@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("refuse", [by_check, by_search])
def test_check_and_search_refuse_the_same(
    name: str, refuse: Refuse, tiny: Path, tmp_path: Path
) -> None:
    changes, expected = REFUSED[name]
    error = refuse(load_job(tiny, changes), tmp_path / "run")
    assert expected in error.message


@pytest.mark.filterwarnings("ignore::autopeft.workers.data.table.DataWarning")
@pytest.mark.parametrize("refuse", [by_check, by_search])
def test_an_encoder_is_no_causal_language_model(refuse: Refuse, tiny: Path, tmp_path: Path) -> None:
    error = refuse(load_job(tiny, {"task": "causal-lm"}), tmp_path / "run")
    assert "is an encoder of type bert, which has no causal language model head" in error.message
    assert "classification, multiple-choice, regression, token-classification" in error.message
    assert error.hint is not None


@pytest.mark.parametrize("refuse", [by_check, by_search])
@pytest.mark.parametrize(
    ("key", "value"), [("model.quantization", "4bit"), ("training.optimizer", "adamw-8bit")]
)
def test_few_bits_need_their_package(
    key: str,
    value: str,
    refuse: Refuse,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "bitsandbytes" else find(name, *rest),
    )
    error = refuse(load_job(tiny, {key: value}), tmp_path / "run")
    assert f"{key} is {value}, which needs the package bitsandbytes" in error.message
    assert "pip install 'autopeft[quantization]'" in str(error.hint)


@pytest.mark.parametrize("refuse", [by_check, by_search])
def test_flash_attention_needs_a_gpu(refuse: Refuse, tiny: Path, tmp_path: Path) -> None:
    error = refuse(load_job(tiny, {"model.attention": "flash_attention_2"}), tmp_path / "run")
    assert "runs on a CUDA GPU, not on the CPU" in error.message


def test_every_problem_of_a_task_found_in_the_data_is_told(tiny: Path) -> None:
    spec = load_job(tiny, {"training.packing": True, "metric": "token_f1"})
    with pytest.raises(InvalidJobError) as caught:
        read_data(spec)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "metric",
        "training.packing",
    ]


def test_a_good_job_passes_with_what_was_found(tiny: Path) -> None:
    found = examine_at_hand(load_job(tiny))
    assert found.missing == ()
    assert found.read is not None
    assert found.goal == found.read.goal
    assert found.read.goal.task == "classification"
    assert found.read.goal.metric == "accuracy"


def test_a_model_of_the_hub_is_left_for_the_search(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = examine_at_hand(load_job(tiny, {"model": "nobody/has-this-model"}))
    assert found.missing == ("nobody/has-this-model",)
    assert found.read is not None


def test_built_in_data_are_left_but_not_what_they_are_for(tmp_path: Path) -> None:
    values = {"model": "builtin:minilm", "data": "builtin:docstrings", "metric": "token_f1"}
    with pytest.raises(InvalidJobError, match="the task 'classification' has none"):
        examine_at_hand(parse_job(values, base=tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", TASK_OF_BUILTIN_DATA)
def test_built_in_data_are_for_the_task_they_are_said_to_be_for(name: str, tmp_path: Path) -> None:
    spec = parse_job({"model": "builtin:minilm", "data": name}, base=tmp_path)
    assert read_data(spec).goal.task == TASK_OF_BUILTIN_DATA[name]


def test_labels_that_a_language_model_does_not_read_are_told(tiny: Path) -> None:
    spec = load_job(tiny, {"task": "causal-lm"})
    with pytest.warns(DataWarning, match="column 'text' alone, and 'label' left out"):
        read_data(spec)


def test_a_text_column_named_by_hand_is_meant(tiny: Path, recwarn: pytest.WarningsRecorder) -> None:
    read_data(load_job(tiny, {"task": "causal-lm", "data.columns.text": "text"}))
    assert not recwarn.list


@pytest.mark.parametrize("space", ["lora", None])
def test_a_preset_is_opened_by_a_flag(space: str | None, tmp_path: Path) -> None:
    values: dict[str, Any] = {"model": "builtin:minilm", "data": "builtin:docstrings"}
    if space is not None:
        values["space"] = space
    spec = parse_job(values, base=tmp_path, overrides={"space.deploy": "merged"})
    assert spec.space == {"preset": space or "default", "deploy": "merged"}


def test_sites_can_be_named_by_flags(tmp_path: Path) -> None:
    values = {"model": "builtin:minilm", "data": "builtin:docstrings"}
    spec = parse_job(values, base=tmp_path, overrides={"model.sites.q": "attention.wq"})
    assert spec.model.sites == {"q": "attention.wq"}


#: Limits that no configuration of the job's space keeps.
UNMEETABLE: Mapping[str, tuple[Mapping[str, float], str]] = {
    "num_trainable_parameters": (
        {"max": 1},
        r"<= 1: the smallest configuration of the space has [\d,]+ \(its head alone [\d,]+\)",
    ),
    "num_adapter_parameters": ({"min": 1e9}, "the largest configuration of the space has"),
    "adapter_file_bytes": ({"max": 40}, "the smallest configuration of the space has"),
    "train_memory_bytes": ({"max": 1000}, "the frozen weights of tiny-bert alone take"),
}


@pytest.mark.parametrize("name", UNMEETABLE)
@pytest.mark.parametrize("refuse", [by_check, by_search])
def test_a_limit_that_nothing_keeps_is_refused(
    name: str, refuse: Refuse, tiny: Path, tmp_path: Path
) -> None:
    limit, expected = UNMEETABLE[name]
    changes = {f"constraints.{name}": limit, "space": {"methods": {"lora": {}, "ia3": {}}}}
    error = refuse(load_job(tiny, changes), tmp_path / "run")
    assert error.message.startswith(f"constraint {name} <= ") or "min" in limit
    assert re.search(expected, error.message)
    assert error.hint is not None
    assert f"constraints.{name}." in error.hint


def test_a_limit_that_only_the_smallest_keep_passes(tiny: Path) -> None:
    space: dict[str, Any] = {"methods": {"lora": {}}}
    with pytest.raises(InvalidJobError) as caught:
        examine_at_hand(
            load_job(tiny, {"constraints.num_adapter_parameters": {"max": 1}, "space": space})
        )
    found = re.search(r"of the space has ([\d,]+)", caught.value.message)
    assert found is not None
    least = int(found[1].replace(",", ""))
    limits = {"constraints.num_adapter_parameters": {"max": least}, "space": space}
    assert examine_at_hand(load_job(tiny, limits)).read is not None


def test_predicted_memory_that_nothing_keeps_to_is_refused() -> None:
    space = load_space({"methods": {"lora": {}}}, bert_shape())
    limit = Constraint(name="train_memory_bytes", maximum=10.0)
    check_memory(space, [limit], lambda several: [9.0 for _ in several])
    with pytest.raises(InvalidJobError, match="smallest configuration of the space has 11"):
        check_memory(space, [limit], lambda several: [11.0 for _ in several])
