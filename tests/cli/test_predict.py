"""``autopeft predict``: from a config and an adapter's config to bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autopeft.cli.predicting import Step, _as_trained
from autopeft.search_spaces.configuration import Configuration, Module
from tests.cli.running import Outcome, run_command

LAYERS, WIDTH, INNER, VOCABULARY = 2, 32, 64, 50
MODEL = {
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "tie_word_embeddings": True,
}
LORA = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "target_modules": ["q_proj"]}
NUM_LORA = LAYERS * 4 * 2 * WIDTH
NUM_ALL = LAYERS * (4 * WIDTH**2 + 3 * WIDTH * INNER + 2 * WIDTH) + WIDTH + VOCABULARY * WIDTH

Predict = Callable[..., Outcome]


@pytest.fixture
def predict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Predict:
    def run(peft: Any = None, *flags: str, model: Any = MODEL) -> Outcome:
        config = tmp_path / "config.json"
        config.write_text(model if isinstance(model, str) else json.dumps(model))
        arguments = ["predict", "--model", str(config), "--batch-size", "2", "--tokens", "8"]
        if peft is not None:
            adapter = tmp_path / "adapter_config.json"
            adapter.write_text(peft if isinstance(peft, str) else json.dumps(peft))
            arguments += ["--peft", str(adapter)]
        return run_command(capsys, *arguments, *flags)

    return run


def read(outcome: Outcome) -> dict[str, Any]:
    assert outcome.code == 0, outcome.stderr
    found: dict[str, Any] = json.loads(outcome.stdout)
    return found


def test_an_adapter_config(predict: Predict) -> None:
    found = read(predict(LORA, "--format", "json"))

    assert found["num_trainable_parameters"] == NUM_LORA
    assert found["peak_memory_bytes"] == sum(found["components"].values())
    assert found["components"]["adapter"] == 4 * NUM_LORA  # float32 over a bfloat16 base
    assert found["components"]["weights"] >= 2 * NUM_ALL
    assert found["components"]["optimizer_state"] == 8 * NUM_LORA
    assert found["phase"] in ("forward", "backward", "optimizer")


def test_what_no_method_stands_for_is_built_by_peft(predict: Predict) -> None:
    strange = {**LORA, "modules_to_save": ["lm_head"], "rank_pattern": {"layers.1": 2}}
    found = read(predict({**strange, "use_rslora": True, "bias": "all"}, "--format", "json"))

    assert found["method"] == "LORA"
    assert found["num_trainable_parameters"] > NUM_LORA


def test_both_ways_of_building_agree(predict: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = read(predict(LORA, "--format", "json"))
    monkeypatch.setattr("autopeft.workers.foreign_adapters.module_of_config", lambda *_: None)

    assert read(predict(LORA, "--format", "json")) == ours


def test_a_configuration_of_ours(predict: Predict) -> None:
    module = Module.of("ia3", (0, 1), sites=("k", "v"))
    configuration = Configuration(modules=(module,), learning_rate=0.1)
    found = read(predict(configuration.to_json(), "--format", "json"))

    assert found["num_trainable_parameters"] == LAYERS * 2 * WIDTH


def test_a_configuration_of_ours_brings_its_training_settings(predict: Predict) -> None:
    module = Module.of("ia3", (0, 1), sites=("k", "v"))
    training = (("gradient_checkpointing", True), ("optimizer", "sgd"))
    ours = Configuration(modules=(module,), learning_rate=1e-3, training=training).to_json()
    step = read(predict(ours, "--format", "json"))["step"]
    assert (step["optimizer"], step["gradient_checkpointing"]) == ("sgd", True)
    asked = ("--optimizer", "adamw", "--no-gradient-checkpointing", "--format", "json")
    step = read(predict(ours, *asked))["step"]
    assert (step["optimizer"], step["gradient_checkpointing"]) == ("adamw", False)


def test_the_batch_of_a_configuration_is_what_is_computed_together() -> None:
    training = {"batch_size": 8, "gradient_accumulation": 4}
    step = _as_trained(Step(tokens=8), {"training": training}, frozenset())
    assert step.batch_size == 2
    asked = _as_trained(
        Step(tokens=8, batch_size=3), {"training": training}, frozenset({"batch_size"})
    )
    assert asked.batch_size == 3


def test_without_an_adapter_every_weight_trains(predict: Predict) -> None:
    found = read(predict(None, "--dtype", "float32", "--format", "json"))

    assert found["num_trainable_parameters"] == NUM_ALL
    assert found["components"]["adapter"] == 4 * NUM_ALL


def test_an_optimiser_that_freezes_counts_what_it_leaves(predict: Predict) -> None:
    found = read(predict(LORA, "--optimizer", "lora-fa", "--format", "json"))

    assert found["num_trainable_parameters"] == NUM_LORA // 2


def test_checkpointing_and_quantisation_need_less(predict: Predict) -> None:
    plain = read(predict(LORA, "--tokens", "64", "--format", "json"))
    less = read(predict(LORA, "--tokens", "64", "--gradient-checkpointing", "--format", "json"))
    small = read(predict(LORA, "--quantization", "4bit", "--format", "json"))

    assert less["components"]["activations"] < plain["components"]["activations"]
    assert small["components"]["weights"] < plain["components"]["weights"]


def test_eager_attention_needs_more(predict: Predict) -> None:
    eager, fused = (
        read(predict(LORA, "--tokens", "64", "--attention", name, "--format", "json"))
        for name in ("eager", "flash_attention_2")
    )

    assert eager["components"]["activations"] > fused["components"]["activations"]


def test_activations_in_4_bits_need_less(predict: Predict) -> None:
    full, packed = (
        read(predict(LORA, "--tokens", "64", "--saved-activations", name, "--format", "json"))
        for name in ("full", "4bit")
    )

    assert packed["components"]["activations"] < full["components"]["activations"]
    assert packed["step"]["saved_activations"] == "4bit"


def test_people_get_a_table_with_bars(predict: Predict) -> None:
    outcome = predict(LORA)

    assert outcome.code == 0
    assert f"trains {NUM_LORA:,} parameters" in outcome.stdout
    assert "batch of 2, 8 tokens an example, bfloat16 base, adamw\n" in outcome.stdout
    assert "GiB" not in outcome.stdout, "a model of some kilobytes"
    assert "activations" in outcome.stdout
    assert "█" in outcome.stdout


def test_a_config_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = run_command(capsys, "predict", "--model", str(tmp_path / "nowhere.json"))

    assert outcome.code == 2
    assert "cannot read" in outcome.stderr


@pytest.mark.parametrize(
    ("peft", "flags", "said"),
    [
        ("{", (), "is not JSON"),
        ("[]", (), "holds list, not an object"),
        ({}, (), "neither peft_type nor modules"),
        ({**LORA, "peft_type": "LORAX"}, (), "peft_type is 'LORAX'"),
        ({**LORA, "rang": 4}, (), "has no field 'rang'"),
        ({**LORA, "target_modules": ["query"]}, (), "PEFT cannot build this"),
        ({**LORA, "r": -1}, (), "-1"),
        ({"schema_version": 1, "modules": [{}], "learning_rate": 1}, (), "not a configuration"),
        (LORA, ("--optimizer", "adam"), "unknown optimizer 'adam'"),
        (LORA, ("--optimizer", "adamw8bit"), "'adamw8bit'; did you mean 'adamw-8bit'?"),
        (LORA, ("--task", "chat"), "unknown task 'chat'"),
        (LORA, ("--task", "causal"), "unknown task 'causal'; did you mean 'causal-lm'?"),
        (LORA, ("--attention", "flash"), "'flash' is not one of 'auto', 'eager', 'sdpa', "),
        (LORA, ("--attention", "flash"), "; did you mean 'flash_attention_2'?"),
        (LORA, ("--device", "gpux"), "'gpux' is not one of 'cuda', 'cpu'"),
        (LORA, ("--tokens", "0"), "'--tokens': expected greater than or equal to 1, got '0'"),
        (LORA, ("--batch_size", "1"), "No such option: --batch_size; did you mean '--batch-size'"),
    ],
    ids=str,
)
def test_wrong_input_is_one_error(
    predict: Predict, peft: Any, flags: tuple[str, ...], said: str
) -> None:
    outcome = predict(peft, *flags)

    assert outcome.code == 2
    assert outcome.stdout == ""
    assert outcome.stderr.count("error: ") == 1
    assert said in outcome.stderr


@pytest.mark.parametrize(
    "model",
    ["{", "{}", '{"model_type": "nonsense"}', json.dumps({**MODEL, "num_attention_heads": "x"})],
)
def test_a_config_that_is_none(predict: Predict, model: str) -> None:
    outcome = predict(LORA, model=model)

    assert outcome.code == 2
    assert outcome.stderr.count("error: ") == 1


def test_a_configuration_of_another_model(predict: Predict) -> None:
    module = Module.of("ia3", (30,), sites=("k", "v"))
    outcome = predict(Configuration(modules=(module,), learning_rate=0.1).to_json())

    assert outcome.code == 2
    assert "does not fit the model" in outcome.stderr


def test_layers_that_are_not_there_are_answered_with_those_that_are(predict: Predict) -> None:
    outcome = predict({**LORA, "target_modules": ["query"]})

    assert "PEFT cannot build this LORA on the model: " in outcome.stderr
    assert "hint: linear layers of the model are called down_proj, gate_proj, " in outcome.stderr


def test_help_teaches_by_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = run_command(capsys, "predict", "--help")

    assert outcome.code == 0
    assert "Example: autopeft predict --model" in " ".join(outcome.stdout.split())
