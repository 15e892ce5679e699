"""Built-in models are built once, resumed bit for bit, checked, and made by one process."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from autopeft.errors import ModelError
from autopeft.workers.model_sources import resolve_model
from autopeft.workers.models import load_config, load_model, load_tokenizer
from autopeft.workers.pretraining import building, recipe, steps
from autopeft.workers.pretraining.building import (
    build,
    build_if_missing,
    built_folder,
    cache_folder,
    is_built,
    model_folder,
    read_card,
)
from autopeft.workers.pretraining.progress import BuildProgress
from autopeft.workers.pretraining.recipe import RECIPES, Recipe
from autopeft.workers.settings import ModelSettings

NAME = "docstring-lm-tiny"
SMALL = replace(
    RECIPES[NAME],
    libraries=("rich", "typer"),
    num_per_library=80,
    num_tokens=32,
    vocab_size=300,
    hidden_size=16,
    intermediate_size=24,
    steps=6,
    evaluation_steps=3,
    checkpoint_steps=2,
    warmup_steps=2,
)


class StoppedError(Exception):
    """A build was interrupted."""


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "RECIPES", {NAME: SMALL})
    monkeypatch.setattr(building, "RECIPES", {NAME: SMALL})


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache with a model in it."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "RECIPES", {NAME: SMALL})
        patch.setenv("AUTOPEFT_CACHE", str(cache))
        build(NAME)
    return cache


@pytest.fixture
def cache(built: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOPEFT_CACHE", str(built))
    return built


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOPEFT_CACHE", str(tmp_path))
    return tmp_path


def stop_at(step: int) -> Any:
    def on_progress(progress: BuildProgress) -> None:
        if progress.stage == "training" and progress.done == step:
            raise StoppedError

    return on_progress


def test_a_card_says_what_was_built(cache: Path) -> None:
    card = read_card(NAME)
    assert card["recipe"] == SMALL.to_json()
    assert card["held_out_perplexity"] == pytest.approx(math.exp(card["held_out_loss"]))
    assert 1.0 < card["held_out_perplexity"] < SMALL.vocab_size
    assert [point["step"] for point in card["curve"]] == [3, 6]
    assert set(card["corpus"]["versions"]) == set(SMALL.libraries)
    assert card["num_trained_tokens"] == 6 * 8 * 32
    names = {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"}
    assert names <= set(card["sha256"])
    assert [path.name for path in (cache / "models").iterdir() if path.is_dir()] == [SMALL.key]


def test_it_loads_as_any_model(cache: Path) -> None:
    source = resolve_model(ModelSettings(name=f"builtin:{NAME}"), cache)
    assert source.public_name == NAME
    config = load_config(source, 0, None, "causal-lm")
    model = load_model(source, config, task="causal-lm")
    tokenizer = load_tokenizer(source)
    assert sum(p.numel() for p in model.parameters()) == read_card(NAME)["num_parameters"]
    assert len(tokenizer) == config.vocab_size
    assert tokenizer.eos_token_id == config.eos_token_id != tokenizer.pad_token_id
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    text = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
    assert tokenizer.apply_chat_template(chat, tokenize=False) == text
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in model.generation_config.eos_token_id


def test_a_second_build_does_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "build_model", None)
    told: list[BuildProgress] = []
    assert build(f"builtin:{NAME}", on_progress=told.append) == model_folder(NAME)
    build_if_missing(f"builtin:{NAME}", lambda text: told.append(BuildProgress(stage=text)))
    assert told == []


@pytest.mark.parametrize("step", [1, 2, 5])
def test_an_interrupted_build_ends_at_the_same_weights(
    cache: Path, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = load_file(built_folder(NAME) / "model.safetensors")
    curve = read_card(NAME)["curve"]
    monkeypatch.setenv("AUTOPEFT_CACHE", str(tmp_path))
    with pytest.raises(StoppedError):
        build(NAME, on_progress=stop_at(step))
    assert not is_built(NAME)
    done: list[int] = []
    monkeypatch.setattr(steps, "read_corpus", None)  # what was read is kept

    build(NAME, on_progress=lambda p: done.append(p.done) if p.stage == "training" else None)

    assert done == list(range(step - step % 2 + 1, 7))
    again = load_file(built_folder(NAME) / "model.safetensors")
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    for point, expected in zip(read_card(NAME)["curve"], curve, strict=True):
        assert point["train_loss"] == expected["train_loss"]
        assert point["held_out_loss"] == expected["held_out_loss"]
    assert not list((tmp_path / "models").glob(".*.building"))


def test_a_damaged_build_is_told(empty: Path) -> None:
    build(NAME)
    weights = model_folder(NAME) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError, match="is not what was built") as raised:
        built_folder(NAME)
    assert raised.value.hint == f"autopeft build {NAME} --force"
    weights.unlink()
    with pytest.raises(ModelError, match="is missing"):
        build(NAME)
    build(NAME, force=True)
    assert built_folder(NAME) == model_folder(NAME)


def test_a_model_that_is_not_built_is_told(empty: Path) -> None:
    with pytest.raises(ModelError, match="is not built yet") as raised:
        resolve_model(ModelSettings(name=f"builtin:{NAME}"), empty)
    assert raised.value.hint is not None
    assert f"autopeft build {NAME}" in raised.value.hint


def test_a_search_builds_it_and_says_how_long(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "SECONDS_BETWEEN_PHASES", 0.0)
    told: list[str] = []
    build_if_missing(f"builtin:{NAME}", told.append)
    assert is_built(NAME)
    assert told[0].startswith(f"building builtin:{NAME}, once: about 0.1 minutes")
    assert f"building builtin:{NAME}: training 6 of 6, 0:00 left" in told


@pytest.mark.parametrize("name", ["builtin:minilm", "docstring-lm-tiny", "org/model"])
def test_other_models_are_not_built(empty: Path, name: str) -> None:
    build_if_missing(name, pytest.fail)
    assert not list(empty.iterdir())


def test_an_unknown_name_is_told(empty: Path) -> None:
    with pytest.raises(ModelError, match="did you mean 'docstring-lm-tiny'"):
        build("docstring-lm-tini")


def test_a_cache_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AUTOPEFT_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="cannot be built in") as raised:
        build(NAME)
    assert raised.value.hint == "name a folder to write to in AUTOPEFT_CACHE"


def test_one_process_builds_and_another_waits(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hold the lock; whoever comes waits, and takes what it finds built when it gets the lock."""
    ready = built_folder(NAME)
    monkeypatch.setenv("AUTOPEFT_CACHE", str(tmp_path))
    final = model_folder(NAME)
    final.parent.mkdir(parents=True)
    lock = FileLock(final.with_name(f"{final.name}.lock"))
    lock.acquire()

    def on_progress(progress: BuildProgress) -> None:
        assert progress.stage.startswith("waiting")
        ready_copy = final.with_name("copy")
        ready_copy.mkdir()
        for path in ready.iterdir():
            (ready_copy / path.name).write_bytes(path.read_bytes())
        ready_copy.rename(final)
        lock.release()

    monkeypatch.setattr(steps, "build_model", None)
    assert build(NAME, on_progress=on_progress) == final


HOLD = (
    "import sys; from filelock import FileLock; FileLock(sys.argv[1]).acquire();"
    "print('ready', flush=True); sys.stdin.read()"
)


def test_a_killed_process_holds_no_lock(empty: Path) -> None:
    final = model_folder(NAME)
    final.parent.mkdir(parents=True)
    path = str(final.with_name(f"{final.name}.lock"))
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
    told: list[str] = []
    build(NAME, on_progress=lambda progress: told.append(progress.stage))
    assert not [stage for stage in told if stage.startswith("waiting")]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"AUTOPEFT_CACHE": "/a"}, "/a"),
        ({"AUTOPEFT_CACHE": "", "XDG_CACHE_HOME": "/b"}, "/b/autopeft"),
        ({"AUTOPEFT_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"HOME": "/c"}, "/c/.cache/autopeft"),
    ],
)
def test_where_the_cache_is(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AUTOPEFT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


def test_progress_is_one_line() -> None:
    assert str(BuildProgress(stage="tokenising")) == "tokenising"
    assert str(BuildProgress(stage="reading torch", done=3, total=9)) == "reading torch 3 of 9"
    assert (
        str(BuildProgress(stage="training", done=5, total=9, seconds_left=89.6))
        == "training 5 of 9, 1:30 left"
    )


@pytest.mark.parametrize("built_in", RECIPES.values(), ids=lambda each: each.name)
def test_the_recipes_are_sound(built_in: Recipe) -> None:
    assert built_in.hidden_size % built_in.num_heads == 0
    assert built_in.num_tokens <= built_in.max_positions
    assert built_in.steps % built_in.evaluation_steps == 0
    assert json.loads(json.dumps(built_in.to_json()))["name"] == built_in.name
