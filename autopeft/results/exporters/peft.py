"""Export for Hugging Face PEFT: adapter, head, tokenizer and how to load them.

A configuration of one method is one plain PEFT adapter. Several methods, which no PEFT adapter
can hold, become one folder each with a small loader beside them. A method that is not part of
PEFT is saved the same way; loading it needs the module that makes it known, which the README's
lines import.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

from safetensors import SafetensorError, safe_open

from autopeft.errors import ExportError
from autopeft.records import TrialState, TrialStatus
from autopeft.results.exporters._peft_texts import EXAMPLE_PROMPTS, LOADER, readme
from autopeft.results.exporters.base import EXPORTERS, Exporter, ExportRequest
from autopeft.results.job_log import finite_or_none
from autopeft.search_spaces.method import get_method

SCHEMA_VERSION = 1
FACTS_FILE = "autopeft.json"
CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
HEAD_FILE = "head.safetensors"

#: Names of models that are built on the user's machine begin so in a job file.
BUILT_NAME = "docstring-lm"
BUILT_MODELS = f"builtin:{BUILT_NAME}"
#: Bytes of a saved number: adapters are trained and saved as float32.
_FLOAT32 = 4
#: What a processor of each modality leaves behind.
PROCESSOR_FILES = {
    "text": "tokenizer_config.json",
    "image": "preprocessor_config.json",
    "audio": "preprocessor_config.json",
}
REQUIRED_FACTS = ("base_model", "task", "metric", "id2label", "max_tokens", "text_columns",
                  "num_labels")  # fmt: skip


@EXPORTERS.register("peft")
class PeftExporter(Exporter):
    """Write what plain ``transformers`` and ``peft`` load, as the export's README says."""

    tool: ClassVar[str] = "peft"

    def obstacles(self, request: ExportRequest) -> list[str]:
        """Return why the trial cannot be handed to PEFT; empty where it can."""
        state = request.state
        found = []
        if state.status is not TrialStatus.COMPLETED:
            found.append(f"trial {state.trial.number} is {state.status.value}, not completed")
        elif not (request.checkpoint / "adapter").is_dir():
            found.append(
                f"trial {state.trial.number} has no checkpoint any more "
                "(those of trials off the front are removed)"
            )
        try:
            _read_facts(request.assets)
        except ExportError as error:
            found.append(error.message)
        return found

    def write(self, request: ExportRequest, target: Path) -> None:
        """Write the files into ``target``, whole or not at all.

        Raises:
            ExportError: ``target`` exists and is not empty, the trial has obstacles, or a file
                of the checkpoint or the assets is missing or damaged.
        """
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise ExportError(
                f"{target} exists already and is not an empty folder",
                hint="name a folder that does not exist yet",
            )
        obstacles = self.obstacles(request)
        if obstacles:
            raise ExportError(
                "cannot export for peft: " + "; ".join(obstacles),
                hint="pick another trial: --pick knee, best or smallest",
            )
        # The full path, so that a target such as `.` has a name and a folder beside it.
        place = target.resolve()
        writing = place.with_name(f".{place.name}.writing-{uuid4().hex}")
        try:
            writing.mkdir(parents=True)
            _fill(writing, request)
            _sync(writing)
            writing.rename(place)
        except OSError as error:
            raise ExportError(
                f"cannot write {target}: {error.strerror or error}",
                hint="name a folder you may write to, on a disk with space",
            ) from error
        finally:
            shutil.rmtree(writing, ignore_errors=True)


def _fill(folder: Path, request: ExportRequest) -> None:
    facts = _facts(request)
    adapter = request.checkpoint / "adapter"
    is_parts = not (adapter / CONFIG_FILE).is_file()
    for path in _files(request.assets):
        if path.name != FACTS_FILE:
            _copy(path, folder / path.relative_to(request.assets))
    if is_parts:
        parts = sorted(path.parent for path in adapter.glob(f"*/{CONFIG_FILE}"))
        if not parts:
            raise ExportError(f"the checkpoint {request.checkpoint.name} holds no adapter")
        for part in parts:
            _write_adapter(part, folder / part.name, facts["base_model"])
        if (adapter / HEAD_FILE).is_file():
            _copy(adapter / HEAD_FILE, folder / HEAD_FILE)
        (folder / "load.py").write_text(LOADER, encoding="utf-8")
    else:
        _write_adapter(adapter, folder, facts["base_model"])
    _write_json(folder / FACTS_FILE, facts)
    (folder / "README.md").write_text(readme(facts, is_parts=is_parts), encoding="utf-8")
    _check(folder, request, is_parts=is_parts)


def _facts(request: ExportRequest) -> dict[str, Any]:
    state = request.state
    trial, last = state.trial, state.curve[-1]
    facts = _read_facts(request.assets)
    own = dict(trial.configuration.training)
    if "precision" in own:
        facts["precision"] = own["precision"]
    return {
        "auto_class": "AutoModelForSequenceClassification",
        "modality": "text",
        "dtype": "float32",
        **facts,
        "schema_version": SCHEMA_VERSION,
        "is_local_model": _is_local_model(facts, request.job),
        "built_by": _build_command(request.job),
        "example_prompt": EXAMPLE_PROMPTS.get(str((request.job.get("data") or {}).get("name"))),
        "needs_modules": _needed_modules(trial.configuration.methods),
        "is_mergeable": _is_mergeable(state) and not facts.get("quantization"),
        "job": request.job.get("name"),
        "training": {**(request.job.get("training") or {}), **own},
        "trial": {
            "number": trial.number,
            "configuration": trial.configuration.to_json(),
            "description": str(trial.configuration),
            "origin": trial.origin,
            "seed": trial.seed,
            "steps": last.step,
            "score": finite_or_none(last.score),
            "metric_value": finite_or_none(last.metrics.get(facts["metric"], math.nan)),
            "metrics": {name: finite_or_none(value) for name, value in last.metrics.items()},
            **state.costs.to_json(),
        },
    }


def _is_local_model(facts: Mapping[str, Any], job: Mapping[str, Any]) -> bool:
    """Tell whether the base model is a folder of the user's, found by no name.

    Assets from before this was noted do not say so: there, a folder is a model whose public
    name is not what the job calls it, nor a name as the hub gives them.
    """
    known = facts.get("is_local_model")
    if known is not None:
        return bool(known)
    name, public = str((job.get("model") or {}).get("name", "")), str(facts["base_model"])
    return bool(name) and not name.startswith("builtin:") and name != public and "/" not in public


def _build_command(job: Mapping[str, Any]) -> str | None:
    """Return the command that builds the job's base model; None where it is published."""
    name = str((job.get("model") or {}).get("name", ""))
    built = name.removeprefix(BUILT_MODELS)
    return None if built == name else f"autopeft build {BUILT_NAME}{built}"


def _needed_modules(methods: Iterable[str]) -> list[str]:
    """Return the modules that must be imported before PEFT knows these methods."""
    found = []
    for name in methods:
        method = get_method(name)
        if method.saved_as == "ours" and method.module_file is not None:
            found.append(method.module_file)
    return found


def _is_mergeable(state: TrialState) -> bool:
    """Tell whether a configuration merges: one method that can, and that costs nothing then."""
    methods = [get_method(name) for name in state.trial.configuration.methods]
    is_free = state.costs.inference_extra_flops == 0
    return is_free and len(methods) == 1 and methods[0].is_mergeable


def _read_facts(assets: Path) -> dict[str, Any]:
    facts = _read_json(assets / FACTS_FILE)
    missing = [name for name in REQUIRED_FACTS if name not in facts]
    if missing:
        raise ExportError(f"{assets / FACTS_FILE} lacks {', '.join(missing)}")
    file = PROCESSOR_FILES[str(facts.get("modality", "text"))]
    if not (assets / file).is_file():
        raise ExportError(f"{assets} holds no {file}")
    return facts


def _write_adapter(source: Path, folder: Path, base_model: str) -> None:
    config = _read_json(source / CONFIG_FILE)
    config["base_model_name_or_path"] = base_model
    folder.mkdir(exist_ok=True)
    _write_json(folder / CONFIG_FILE, config)
    _copy(source / WEIGHTS_FILE, folder / WEIGHTS_FILE)


def _check(folder: Path, request: ExportRequest, *, is_parts: bool) -> None:
    """Check what was written: configs, tensors, their number, and that no path leaks."""
    configs = sorted(folder.rglob(CONFIG_FILE))
    for path in configs:
        if not isinstance(_read_json(path).get("peft_type"), str):
            raise ExportError(f"{path.name} names no peft_type")
    weights = [path.with_name(WEIGHTS_FILE) for path in configs]
    if is_parts and (folder / HEAD_FILE).is_file():
        weights.append(folder / HEAD_FILE)
    numbers = sum(_num_numbers(path) for path in weights)
    expected = request.state.trial.costs.adapter_file_bytes // _FLOAT32
    # Logs from before this cost was recorded read 0.
    if expected and numbers != expected:
        raise ExportError(
            f"the checkpoint {request.checkpoint.name} holds {numbers} numbers, "
            f"trial {request.state.trial.number} saves {expected}",
            hint="the job folder is damaged; restore it from a copy",
        )
    local = {str(path) for place in (request.checkpoint, request.assets)
             for path in (place.absolute(), place.resolve(), place.resolve().parent)}  # fmt: skip
    home = Path("~").expanduser()
    for path in folder.rglob("*"):
        if path.suffix not in (".json", ".md"):
            continue
        text = path.read_text(encoding="utf-8")
        values = [text] if path.suffix == ".md" else list(_strings(json.loads(text)))
        for value in values:
            # A vocabulary may hold any string, so only its own folders count there.
            in_home = path.name != "tokenizer.json" and f"{home}{os.sep}" in value
            if any(place in value for place in local if place != os.sep) or (
                in_home and home != Path(home.anchor)
            ):
                raise ExportError(
                    f"{path.name} would carry a path of this machine: {value[:120]!r}",
                    hint="name the model by its hub name, or remove the path from its files",
                )


def _num_numbers(path: Path) -> int:
    """Count the numbers in a safetensors file from its header."""
    try:
        with safe_open(path, framework="numpy") as file:
            shapes = [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ExportError(f"{path.name} is missing or damaged: {error}") from error
    if not shapes:
        raise ExportError(f"{path.name} holds no tensor")
    return sum(math.prod(shape) for shape in shapes)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _copy(source: Path, target: Path) -> None:
    if not source.is_file():
        raise ExportError(
            f"{source.name} is missing from {source.parent}",
            hint="the job folder is incomplete; restore it from a copy",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ExportError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise ExportError(f"{path} is not a JSON object")
    return data


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _sync(folder: Path) -> None:
    """Put every file and folder below ``folder``, and itself, on the disk."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
