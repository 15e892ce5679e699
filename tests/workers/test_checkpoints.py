from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from autopeft.errors import JobFolderError
from autopeft.records import ModelShape
from autopeft.workers import checkpoints
from autopeft.workers.adapter_tensors import trainable_parameters
from autopeft.workers.checkpoints import (
    checkpoint_name,
    list_checkpoints,
    load_adapter,
    read_checkpoint,
    read_outputs,
    remove_checkpoint,
    remove_leftovers,
    write_checkpoint,
)
from autopeft.workers.injection import inject
from autopeft.workers.models import ModelSource, load_config, load_model
from autopeft.workers.worker import WorkerPlan
from tests.workers import tiny

OUTPUTS = np.arange(12, dtype=np.float32).reshape(4, 3)
LABELS = np.array([0, 1, 2, 0])
NAME = "trial-0003-step-00032"


def trained_model(name: str, base: Any, shape: ModelShape) -> Any:
    model = inject(base, tiny.configuration(name), shape, 1)
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter.add_(torch.linspace(0.1, 0.3, parameter.numel()).view_as(parameter))
    return model


def write(root: Path, model: Any, shape: ModelShape, name: str = "lora", **changes: Any) -> str:
    arguments = {
        "trial": 3,
        "step": 32,
        "seed": 1,
        "configuration": tiny.configuration(name),
        "optimizer": {"a:step": torch.tensor(32.0), "a:exp_avg": torch.ones(2, 3)},
        "outputs": OUTPUTS,
        "labels": LABELS,
        **changes,
    }
    return write_checkpoint(root, model, shape, **arguments)


@pytest.fixture
def model(tiny_base: Any, tiny_shape: ModelShape) -> Any:
    return trained_model("lora", tiny_base, tiny_shape)


def test_names_sort_and_grow() -> None:
    assert checkpoint_name(3, 32) == NAME
    assert checkpoint_name(12345, 1234567) == "trial-12345-step-1234567"


@pytest.mark.parametrize("name", tiny.CONFIGURATIONS)
def test_round_trip(name: str, tmp_path: Path, tiny_base: Any, tiny_shape: ModelShape) -> None:
    model = trained_model(name, tiny_base, tiny_shape)
    assert write(tmp_path, model, tiny_shape, name) == NAME
    checkpoint = read_checkpoint(tmp_path, NAME)
    fresh = inject(tiny_base, tiny.configuration(name), tiny_shape, 9)
    load_adapter(fresh, tiny_shape, checkpoint)

    expected = trainable_parameters(model)
    assert (checkpoint.trial, checkpoint.step, checkpoint.seed) == (3, 32, 1)
    assert checkpoint.configuration == tiny.configuration(name)
    assert all(torch.equal(p, expected[key]) for key, p in trainable_parameters(fresh).items())
    assert checkpoint.optimizer["a:step"].item() == 32.0
    assert np.array_equal(checkpoint.outputs, OUTPUTS)
    assert checkpoint.outputs.dtype == np.float32
    assert np.array_equal(checkpoint.labels, LABELS)


def test_files_of_a_single_adapter(tmp_path: Path, model: Any, tiny_shape: ModelShape) -> None:
    write(tmp_path, model, tiny_shape)
    folder = tmp_path / NAME
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}

    assert files == {
        "adapter/README.md",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "optimizer.safetensors",
        "state.json",
        "validation.safetensors",
    }


def test_files_of_a_mixture(tmp_path: Path, tiny_base: Any, tiny_shape: ModelShape) -> None:
    name = "mixture-with-prefix"
    write(tmp_path, trained_model(name, tiny_base, tiny_shape), tiny_shape, name)
    adapter = tmp_path / NAME / "adapter"
    files = {path.relative_to(adapter).as_posix() for path in adapter.rglob("*") if path.is_file()}
    parts = ("ia3", "lora", "prefix")

    assert files == {
        "head.safetensors",
        *(f"{part}/adapter_config.json" for part in parts),
        *(f"{part}/adapter_model.safetensors" for part in parts),
    }
    assert set(load_file(adapter / "head.safetensors")) == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("name", tiny.CONFIGURATIONS)
def test_nothing_written_names_a_local_path(
    name: str, tmp_path: Path, tiny_base: Any, tiny_shape: ModelShape, tiny_plan: WorkerPlan
) -> None:
    write(tmp_path, trained_model(name, tiny_base, tiny_shape), tiny_shape, name)
    written = b"".join(p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file())
    configs = [json.loads(p.read_text()) for p in tmp_path.rglob("adapter_config.json")]

    assert tiny_plan.source.location.encode() not in written
    assert str(tmp_path).encode() not in written
    assert configs
    assert all(config["base_model_name_or_path"] == "tiny-bert" for config in configs)
    assert all(config["inference_mode"] for config in configs)


def test_equal_models_are_equal_files(tmp_path: Path, model: Any, tiny_shape: ModelShape) -> None:
    write(tmp_path / "one", model, tiny_shape)
    write(tmp_path / "two", model, tiny_shape)
    one, two = (read_files(tmp_path / half) for half in ("one", "two"))

    assert one == two


def read_files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("part", ["beft", "ia3", "lora"])
def test_plain_peft_loads_each_part(
    part: str,
    tmp_path: Path,
    tiny_base: Any,
    tiny_shape: ModelShape,
    tiny_plan: WorkerPlan,
    recwarn: pytest.WarningsRecorder,
) -> None:
    write(tmp_path, trained_model("mixture", tiny_base, tiny_shape), tiny_shape, "mixture")
    base = load_model(tiny_plan.source, load_config(tiny_plan.source, 3))
    folder = tmp_path / NAME / "adapter" / part
    loaded = PeftModel.from_pretrained(base, str(folder))
    stored = load_file(folder / "adapter_model.safetensors")
    numbers = [
        p
        for key, p in loaded.named_parameters()
        if any(m in key for m in ("beft_", "ia3_", "lora_"))
    ]

    assert sum(p.numel() for p in numbers) == sum(t.numel() for t in stored.values())
    assert sum(p.double().sum().item() for p in numbers) == pytest.approx(
        sum(t.double().sum().item() for t in stored.values())
    )
    assert [w for w in recwarn if "missing adapter keys" in str(w.message)] == []


def test_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobFolderError, match=f"checkpoint {NAME} is missing"):
        read_checkpoint(tmp_path, NAME)


@pytest.mark.parametrize(
    "file",
    [
        "state.json",
        "optimizer.safetensors",
        "validation.safetensors",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    ],
)
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "flipped"])
def test_damage_is_noticed(
    file: str, damage: str, tmp_path: Path, model: Any, tiny_shape: ModelShape
) -> None:
    write(tmp_path, model, tiny_shape)
    path = tmp_path / NAME / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x80
    if damage == "missing":
        path.unlink()
    else:
        damaged = {"empty": b"", "truncated": bytes(content[:-7]), "flipped": bytes(content)}
        path.write_bytes(damaged[damage])
    with pytest.raises(JobFolderError, match=f"checkpoint .*{NAME} is damaged"):
        read_checkpoint(tmp_path, NAME)


def test_other_schema_version_is_refused(
    tmp_path: Path, model: Any, tiny_shape: ModelShape
) -> None:
    write(tmp_path, model, tiny_shape)
    path = tmp_path / NAME / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    with pytest.raises(JobFolderError, match="schema version 99, this AutoPEFT reads 1"):
        read_checkpoint(tmp_path, NAME)


def test_checkpoint_of_another_configuration_is_refused(
    tmp_path: Path, model: Any, tiny_base: Any, tiny_shape: ModelShape
) -> None:
    write(tmp_path, model, tiny_shape)
    other = inject(tiny_base, tiny.configuration("ia3"), tiny_shape, 1)
    with pytest.raises(JobFolderError, match="other adapter tensors"):
        load_adapter(other, tiny_shape, read_checkpoint(tmp_path, NAME))


def test_outputs_are_read_alone(tmp_path: Path, model: Any, tiny_shape: ModelShape) -> None:
    write(tmp_path, model, tiny_shape)
    outputs, labels = read_outputs(tmp_path / NAME)

    assert np.array_equal(outputs, OUTPUTS)
    assert np.array_equal(labels, LABELS)
    (tmp_path / NAME / "validation.safetensors").unlink()
    with pytest.raises(JobFolderError, match=r"validation\.safetensors"):
        read_outputs(tmp_path / NAME)


@pytest.mark.parametrize("can_exchange", [True, False])
def test_rewriting_replaces_the_whole(
    can_exchange: bool,
    tmp_path: Path,
    model: Any,
    tiny_shape: ModelShape,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not can_exchange:
        monkeypatch.setattr(checkpoints, "_exchange", lambda one, other: False)
    write(tmp_path, model, tiny_shape)
    (tmp_path / NAME / "leftover").write_text("of an older version")
    write(tmp_path, model, tiny_shape, outputs=OUTPUTS + 1)

    assert np.array_equal(read_checkpoint(tmp_path, NAME).outputs, OUTPUTS + 1)
    assert not (tmp_path / NAME / "leftover").exists()
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_failure_leaves_the_old_one_and_no_litter(
    tmp_path: Path, model: Any, tiny_shape: ModelShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, model, tiny_shape)

    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "_sync_tree", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, model, tiny_shape, outputs=OUTPUTS + 1)

    assert np.array_equal(read_checkpoint(tmp_path, NAME).outputs, OUTPUTS)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_everything_is_synced_before_the_name_appears(
    tmp_path: Path, model: Any, tiny_shape: ModelShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, bool]] = []

    def spy(path: Path) -> None:
        synced.append((path.name, (tmp_path / NAME).exists()))

    monkeypatch.setattr(checkpoints, "_sync", spy)
    write(tmp_path, model, tiny_shape)
    before = [name for name, is_there in synced if not is_there]
    after = [name for name, is_there in synced if is_there]
    files = {path.name for path in (tmp_path / NAME).rglob("*")}

    assert files <= set(before)
    assert after == [tmp_path.name]


def test_listing_is_ordered_and_ignores_what_is_unfinished(
    tmp_path: Path, model: Any, tiny_shape: ModelShape
) -> None:
    for trial, step in ((2, 8), (10, 4), (2, 32)):
        write(tmp_path, model, tiny_shape, trial=trial, step=step)
    (tmp_path / ".writing-trial-0001-step-00001-abc").mkdir()

    names = ("trial-0002-step-00008", "trial-0002-step-00032", "trial-0010-step-00004")
    assert list_checkpoints(tmp_path) == names
    assert list_checkpoints(tmp_path / "nowhere") == ()


def test_removing(tmp_path: Path, model: Any, tiny_shape: ModelShape) -> None:
    write(tmp_path, model, tiny_shape)
    remove_checkpoint(tmp_path, NAME)
    remove_checkpoint(tmp_path, NAME)

    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_killed_processes_are_removed(
    tmp_path: Path, model: Any, tiny_shape: ModelShape
) -> None:
    write(tmp_path, model, tiny_shape)
    (tmp_path / f".writing-{NAME}-abc" / "adapter").mkdir(parents=True)
    (tmp_path / ".removed-abc").mkdir()
    remove_leftovers(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def rewrite_for_ever(root: Path, folder: Path, ready: Any) -> None:
    """Write the same checkpoint again and again, until killed."""
    torch.set_num_threads(1)
    source = ModelSource(location=str(folder), public_name="tiny-bert")
    config = load_config(source, 3, tiny.CLASSES, "classification")
    shape = tiny.make_plan(folder).shape
    model = inject(load_model(source, config), tiny.configuration("lora"), shape, 1)
    write(root, model, shape)
    ready.set()
    while True:
        write(root, model, shape)


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.013, 0.029, 0.051, 0.083])
def test_sigkill_while_rewriting_leaves_a_whole_one(
    delay: float, tmp_path: Path, tiny_folder: Path
) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=rewrite_for_ever, args=(tmp_path, tiny_folder, ready))
    process.start()
    assert ready.wait(60)
    process.join(delay)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()

    assert read_checkpoint(tmp_path, NAME).step == 32
    assert list_checkpoints(tmp_path) == (NAME,)
