"""A study of a model of which a ``config.json`` is all there is."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from autopeft.errors import AutopeftError, InvalidJobError, ModelError
from autopeft.integrations.study import PeftStudy
from autopeft.search_spaces.method import num_trained
from autopeft.workers.memory import MemoryModel

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 64, "vocab_size": 128, "max_position_embeddings": 256,
}  # fmt: skip
SPACE = {"methods": {"lora": {"dora": False, "rslora": False}, "ia3": {}}}
Make = Callable[..., PeftStudy]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that holds a configuration and nothing else."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture(scope="module")
def make(model: Path) -> Make:
    """Return what makes studies of that model."""

    def made(**changes: Any) -> PeftStudy:
        given: dict[str, Any] = {
            "task": "causal-lm",
            "space": SPACE,
            "metric": "loss",
            "mode": "min",
            "max_steps": 48,
            "batch_size": 4,
            "tokens": 32,
            "proposer": "random",
            **changes,
        }
        return PeftStudy.of_model(model, **given)

    return made


def test_costs_are_exact_and_memory_is_predicted(make: Make) -> None:
    study = make(space={"methods": {"ia3": {"sites": [["k", "v"]]}}})
    asked = study.ask()
    assert asked is not None
    trained = num_trained(study.space.shape, asked.configuration.modules, "adamw")
    assert asked.costs.num_trainable_parameters == trained
    config = AutoConfig.for_model(**{k: v for k, v in CONFIG.items() if k != "architectures"})
    memory = MemoryModel(config, study.space.shape, batch_size=4, tokens=32, task="causal-lm")
    assert asked.costs.train_memory_bytes == memory.probe(asked.configuration).total_bytes


def test_memory_is_left_alone_where_it_does_not_count(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("memory was predicted")

    monkeypatch.setattr(MemoryModel, "predict", never)
    monkeypatch.setattr(MemoryModel, "probe", never)
    study = make(objectives=("num_trainable_parameters",))
    asked = study.ask()
    assert asked is not None
    assert asked.costs.train_memory_bytes == 0
    assert study.scale.cost_names == ("num_trainable_parameters",)


def test_limit_is_kept(make: Make) -> None:
    study = make(objectives=(), limits={"num_trainable_parameters": 600}, proposer="mobo")
    asked = [study.ask() for _ in range(6)]
    assert all(each and each.costs.num_trainable_parameters <= 600 for each in asked)


def test_scale_lies_between_chance_and_perfection(make: Make) -> None:
    scale = make(objectives=()).scale
    assert (scale.score_reference, scale.score_ideal) == (-math.log(128), 0.0)
    told = make(objectives=(), metric="bleu", mode="max", score_range=(0.0, 40.0)).scale
    assert (told.metric, told.score_reference, told.score_ideal) == ("bleu", 0.0, 40.0)


def test_study_comes_back_from_its_file(make: Make, tmp_path: Path) -> None:
    study = make(objectives=("num_trainable_parameters",))
    for loss in (3.0, 2.5, 2.0):
        asked = study.ask()
        assert asked is not None
        study.complete(asked.number, loss)
    study.save(tmp_path / "study.json")
    for other in (
        PeftStudy.load(tmp_path / "study.json"),
        pickle.loads(pickle.dumps(study)),
        copy.deepcopy(study),
    ):
        assert other.state() == study.state()
        assert other.trials == study.trials
    assert PeftStudy.load(tmp_path / "study.json").ask() == study.ask()


def test_config_of_peft_trains_what_was_counted(make: Make, model: Path) -> None:
    from peft import get_peft_model

    study = make(objectives=())
    for _ in range(3):
        asked = study.ask()
        assert asked is not None
        with torch.device("meta"):
            base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
        found = get_peft_model(base, asked.peft_config)
        trained = sum(p.numel() for p in found.parameters() if p.requires_grad)
        assert trained == asked.costs.num_trainable_parameters


def test_several_methods_are_injected(make: Make, model: Path) -> None:
    together = {"methods": {"lora": {}, "ia3": {}}, "combine": "all"}
    study = make(objectives=(), space=together)
    asked = study.ask()
    assert asked is not None
    base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    base.config.name_or_path = "another name"  # of which PEFT would warn
    found = asked.inject(base)
    trained = sum(p.numel() for p in found.parameters() if p.requires_grad)
    assert trained == asked.costs.num_trainable_parameters
    assert all(p.requires_grad for p in base.parameters())


def test_searched_training_settings_are_at_hand(make: Make) -> None:
    space = {**SPACE, "training": {"batch_size": [2, 4]}}
    study = make(space=space, objectives=())
    asked = study.ask()
    assert asked is not None
    assert asked.training["batch_size"] in (2, 4)


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"metric": "bleu"}, AutopeftError, "not known between which values 'bleu' lies"),
        ({"mode": "max"}, AutopeftError, "score_range is"),
        ({"score_range": (0.0, 5.0)}, AutopeftError, r"score_range is \(0, 5\)"),
        ({"objectives": ("memory",)}, AutopeftError, "objectives: 'memory' is no cost"),
        ({"limits": {"speed": 1}}, AutopeftError, "limits: 'speed' is no cost"),
        ({"tokens": 1000}, AutopeftError, "takes at most 256"),
        ({"training": {"optimiser": "sgd"}}, InvalidJobError, "optimiser"),
        ({"batch_size": 0}, InvalidJobError, "batch_size"),
        ({"limits": {"num_trainable_parameters": 1}}, InvalidJobError, "num_trainable_parameters"),
        ({"proposer": "mobbo"}, AutopeftError, "unknown proposer 'mobbo'"),
        ({"task": "causal"}, AutopeftError, "unknown task 'causal'"),
    ],
)
def test_what_does_not_fit_is_told(
    make: Make, changes: dict[str, Any], error: type[AutopeftError], told: str
) -> None:
    with pytest.raises(error, match=told):
        make(**{"objectives": (), **changes})


def test_model_that_is_not_there_is_told() -> None:
    with pytest.raises(ModelError, match=r"no model folder '\./nowhere'"):
        PeftStudy.of_model(
            "./nowhere", task="classification", metric="accuracy", mode="max", max_steps=10
        )


def test_model_is_not_built_for_a_study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AUTOPEFT_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="is not built yet, and a study builds nothing"):
        PeftStudy.of_model(
            "builtin:docstring-lm-tiny", task="causal-lm", metric="loss", mode="min", max_steps=10
        )
