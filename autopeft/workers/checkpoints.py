"""Checkpoints: written beside their place, synced, renamed; read with every byte checked.

A checkpoint is a folder ``trial-0003-step-00032``::

    adapter/                 as PEFT's save_pretrained writes it; for several methods at once
                             adapter/<method>/ for each, and adapter/head.safetensors
                             where the task has a head;
                             adapter/training.safetensors where training goes on from more
                             than PEFT saves (the network of P-tuning)
    optimizer.safetensors    the optimiser's state, <parameter name>:<what it is>
    resume.safetensors       where training goes on from other weights than those that were
                             scored (an average, a branch): weights/<group>/<key> for each tensor
                             of the adapter that differs; average/<parameter name>
    validation.safetensors   outputs (n x num_outputs, float32) and labels (n) at that step
    generated.jsonl          answers, where the job scores them and this is the last step
    state.json               schema_version, trial, step, seed, configuration, seconds of
                             training so far, file hashes
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from autopeft.errors import AutopeftError, JobFolderError
from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Configuration
from autopeft.workers.adapter_tensors import (
    HEAD,
    TRAINING,
    adapter_name,
    adapter_tensors,
    fill_adapter,
)

SCHEMA_VERSION = 1
#: Outputs and labels of a checkpoint's measurement, inside its folder.
VALIDATION_FILE = "validation.safetensors"

_NAME = re.compile(r"trial-(\d{4,})-step-(\d{5,})")
_WEIGHTS = "adapter_model.safetensors"
_CONFIG = "adapter_config.json"
_RESUME = "resume.safetensors"
_WEIGHTS_OF = "weights"
_AVERAGE = "average"
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100

#: Outputs and labels of the scored split at the checkpoint's step.
VALIDATION_FILE = "validation.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint as read.

    Attributes:
        folder: Where it stands.
        trial: Number of the trial.
        step: Optimiser steps done.
        seed: Seed of the trial.
        configuration: What was trained.
        adapter: The tensors that were scored by group and PEFT's key, see
            ``adapter_tensors.adapter_tensors``; they are what is exported.
        optimizer: The optimiser's state.
        outputs: Raw validation outputs, ``n x num_outputs``.
        labels: ``n`` validation labels as numbers.
        train_seconds: Seconds of training up to this step, all segments together.
        resume: What training goes on from besides; nothing where that is ``adapter`` alone.
    """

    folder: Path
    trial: int
    step: int
    seed: int
    configuration: Configuration
    adapter: Mapping[str, Mapping[str, torch.Tensor]]
    optimizer: Mapping[str, torch.Tensor]
    outputs: NDArray[np.float32]
    labels: NDArray[Any]
    train_seconds: float = 0.0
    resume: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, dict[str, torch.Tensor]]:
        """The tensors that training goes on from, grouped as ``adapter``."""
        return {
            group: {
                key: self.resume.get(f"{_WEIGHTS_OF}/{group}/{key}", tensor)
                for key, tensor in tensors.items()
            }
            for group, tensors in self.adapter.items()
        }

    @property
    def average(self) -> dict[str, torch.Tensor]:
        """The running average of what trains, by the name of the parameter."""
        start = f"{_AVERAGE}/"
        return {
            key.removeprefix(start): tensor
            for key, tensor in self.resume.items()
            if key.startswith(start)
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Where training goes on from, which is not what was scored.

    Attributes:
        weights: All tensors of the adapter, grouped as ``adapter_tensors.adapter_tensors``.
        average: The running average of what trains, by the name of the parameter.
    """

    weights: Mapping[str, Mapping[str, torch.Tensor]]
    average: Mapping[str, torch.Tensor] = field(default_factory=dict)


def checkpoint_name(trial: int, step: int) -> str:
    """Return the folder name of a checkpoint."""
    return f"trial-{trial:04d}-step-{step:05d}"


def list_checkpoints(root: Path) -> tuple[str, ...]:
    """Return the names of the finished checkpoints below ``root``, sorted by trial and step."""
    if not root.is_dir():
        return ()
    matches = [match for path in root.iterdir() if (match := _NAME.fullmatch(path.name))]
    matches.sort(key=lambda match: (int(match[1]), int(match[2])))
    return tuple(match.string for match in matches)


def remove_checkpoint(root: Path, name: str) -> None:
    """Remove a checkpoint; nothing happens where there is none.

    It loses its name first, so that no half of it is ever taken for a checkpoint.
    """
    doomed = root / f".removed-{uuid.uuid4().hex}"
    try:
        (root / name).rename(doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(root: Path) -> None:
    """Remove what killed processes left behind; no worker may be writing meanwhile."""
    for pattern in (".writing-*", ".removed-*"):
        for folder in root.glob(pattern):
            shutil.rmtree(folder, ignore_errors=True)


def write_checkpoint(
    root: Path,
    model: Any,
    shape: ModelShape,
    *,
    trial: int,
    step: int,
    seed: int,
    configuration: Configuration,
    optimizer: Mapping[str, torch.Tensor],
    outputs: NDArray[np.float32],
    labels: NDArray[Any],
    train_seconds: float = 0.0,
    texts: Mapping[str, str] = MappingProxyType({}),
    resume: Resume | None = None,
) -> str:
    """Write a checkpoint and return its name once every byte of it is on disk.

    Processes may write the same name at the same time: one of them wins, whole. An existing
    checkpoint is replaced in one step where the file system can exchange two folders.

    ``model`` holds what was scored. ``texts`` are further files of text, by name; ``resume`` is
    where training goes on from, if that is something else.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    name = checkpoint_name(trial, step)
    root.mkdir(parents=True, exist_ok=True)
    folder = root / f".writing-{name}-{uuid.uuid4().hex}"
    try:
        folder.mkdir()
        _write_adapter(folder / "adapter", model, shape)
        save_file(_storable(optimizer), folder / "optimizer.safetensors")
        if resume is not None:
            scored = adapter_tensors(model, shape.head_paths)
            save_file(_storable(_resumable(resume, scored)), folder / _RESUME)
        validation = {"outputs": torch.tensor(outputs), "labels": torch.tensor(labels)}
        save_file(validation, folder / VALIDATION_FILE)
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="utf-8")
        state = {
            "schema_version": SCHEMA_VERSION,
            "trial": trial,
            "step": step,
            "seed": seed,
            "configuration": configuration.to_json(),
            "train_seconds": train_seconds,
            "files": {path: _sha256(folder / path) for path in _files(folder)},
        }
        (folder / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
        _sync_tree(folder)
        _move_into_place(folder, root / name)
        _sync(root)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return name


def read_checkpoint(root: Path, name: str) -> Checkpoint:
    """Read a checkpoint and check every file of it.

    Raises:
        JobFolderError: missing, incomplete, damaged, or of another schema version.
    """
    folder = root / name
    state = _read_state(folder)
    try:
        for path, expected in state["files"].items():
            if _sha256(folder / path) != expected:
                raise _damaged(folder, f"{path} has changed since it was written")
        validation = load_file(folder / VALIDATION_FILE)
        return Checkpoint(
            folder=folder,
            trial=int(state["trial"]),
            step=int(state["step"]),
            seed=int(state["seed"]),
            configuration=Configuration.from_json(state["configuration"]),
            adapter=read_adapter(folder / "adapter"),
            optimizer=load_file(folder / "optimizer.safetensors"),
            outputs=validation["outputs"].numpy(),
            labels=validation["labels"].numpy(),
            train_seconds=float(state.get("train_seconds", 0.0)),
            resume=load_file(folder / _RESUME) if (folder / _RESUME).is_file() else {},
        )
    except JobFolderError:
        raise
    except (OSError, KeyError, TypeError, ValueError, SafetensorError, AutopeftError) as error:
        raise _damaged(folder, f"{type(error).__name__}: {error}") from error


def read_outputs(folder: Path) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Return validation outputs (``n x num_outputs``) and labels (``n``) of a checkpoint.

    Raises:
        JobFolderError: missing or damaged.
    """
    try:
        tensors = load_file(folder / VALIDATION_FILE)
        return tensors["outputs"].numpy(), tensors["labels"].numpy()
    except (OSError, KeyError, SafetensorError) as error:
        raise _damaged(folder, f"{VALIDATION_FILE}: {error}") from error


def load_adapter(model: Any, shape: ModelShape, checkpoint: Checkpoint) -> None:
    """Copy the tensors that training goes on from into an injected model.

    Raises:
        JobFolderError: they belong to another model or configuration.
    """
    try:
        fill_adapter(model, shape.head_paths, checkpoint.weights)
    except ValueError as error:
        raise _damaged(checkpoint.folder, str(error)) from error


def _write_adapter(folder: Path, model: Any, shape: ModelShape) -> None:
    """Write the adapter as PEFT does, without a lookup of the base model on a network."""
    groups = adapter_tensors(model, shape.head_paths)
    folder.mkdir(parents=True, exist_ok=True)
    if training := groups.pop(TRAINING, {}):
        save_file(_storable(training), folder / f"{TRAINING}.safetensors")
    if set(groups) == {""}:
        model.save_pretrained(folder, save_embedding_layers=False)
        _write_config_in_order(folder / _CONFIG)
        return
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    configs = {**getattr(base, "peft_config", {})}
    if isinstance(model, PeftModel):
        configs.update(model.peft_config)
    for group, tensors in groups.items():
        if group == HEAD:
            if tensors:  # a language model has none
                save_file(_storable(tensors), folder / f"{HEAD}.safetensors")
            continue
        part = folder / group
        config = configs[adapter_name(group)]
        trains, config.inference_mode = config.inference_mode, True
        config.save_pretrained(part)
        config.inference_mode = trains
        _write_config_in_order(part / _CONFIG)
        save_file(_storable(tensors), part / _WEIGHTS, metadata={"format": "pt"})


def _write_config_in_order(path: Path) -> None:
    """Sort what PEFT kept as sets, so that equal adapters are equal files in any process."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("target_modules", "target_parameters", "modules_to_save"):
        if isinstance(config.get(key), list):
            config[key] = sorted(set(config[key]))
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def read_adapter(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Return the tensors of an ``adapter`` folder, grouped as ``injection.adapter_tensors``.

    Raises:
        OSError: a file is missing.
        SafetensorError: a file is damaged.
    """
    training = folder / f"{TRAINING}.safetensors"
    groups = {TRAINING: load_file(training)} if training.is_file() else {}
    if (folder / _WEIGHTS).is_file():
        return {**groups, "": load_file(folder / _WEIGHTS)}
    for path in sorted(folder.glob(f"*/{_WEIGHTS}")):
        groups[path.parent.name] = load_file(path)
    head = folder / f"{HEAD}.safetensors"
    return {**groups, HEAD: load_file(head) if head.is_file() else {}}


def _read_state(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise JobFolderError(
            f"checkpoint {folder.name} is missing from {folder.parent}",
            hint="was it removed by hand? The trial cannot go on or be exported without it",
        )
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        version = state["schema_version"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise _damaged(folder, f"state.json: {error}") from error
    if version != SCHEMA_VERSION:
        raise JobFolderError(
            f"checkpoint {folder} has schema version {version!r}, this AutoPEFT reads "
            f"{SCHEMA_VERSION}",
            hint="open it with the AutoPEFT version that wrote it",
        )
    assert isinstance(state, dict)
    return state


def _damaged(folder: Path, reason: str) -> JobFolderError:
    return JobFolderError(
        f"checkpoint {folder} is damaged: {reason}",
        hint="restore the job folder from a copy, or search again into a new one",
    )


def _resumable(
    resume: Resume, scored: Mapping[str, Mapping[str, torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """Return the tensors of ``resume.safetensors`` by key."""
    weights = {
        f"{_WEIGHTS_OF}/{group}/{key}": tensor
        for group, tensors in resume.weights.items()
        for key, tensor in tensors.items()
        if not torch.equal(tensor.cpu(), scored[group][key].cpu())
    }
    return weights | {f"{_AVERAGE}/{name}": each for name, each in resume.average.items()}


def _storable(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # Cloned, because safetensors refuses tensors that layers share.
    return {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}


def _files(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in files)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move_into_place(folder: Path, target: Path) -> None:
    """Rename ``folder`` to ``target``; what stood there is removed afterwards."""
    while True:
        try:
            folder.rename(target)
            return
        except OSError:
            if not target.is_dir():
                raise
        if _exchange(folder, target):
            shutil.rmtree(folder, ignore_errors=True)
            return
        remove_checkpoint(target.parent, target.name)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step (Linux); False where the system or its files cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    arguments = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return bool(renameat2(*arguments) == 0)
