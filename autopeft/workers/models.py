"""Read a model's configuration, load its weights with a task's head, and its tokenizer.

Safetensors only; remote code runs only where the job asks for it. Whatever goes wrong on the
way to a usable model becomes one :class:`~autopeft.errors.ModelError`.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from autopeft.errors import ModelError
from autopeft.workers.heads import head_paths, is_below, lacking_modules
from autopeft.workers.hub_access import is_hub_reachable
from autopeft.workers.model_sources import BUILTIN_MODELS, ModelSource, resolve_model
from autopeft.workers.quantization import (
    check_can_quantize,
    kept_modules,
    quantization_arguments,
    settle,
)
from autopeft.workers.settings import Attention
from autopeft.workers.tasks.base import TASKS

__all__ = [
    "BUILTIN_MODELS",
    "ModelSource",
    "auto_class",
    "auto_class_name",
    "check_attention",
    "check_can_quantize",
    "clear_errors",
    "head_paths",
    "kept_in_full",
    "lacking_modules",
    "load_config",
    "load_model",
    "load_tokenizer",
    "max_positions",
    "quiet_transformers",
    "resolve_model",
]

#: Types whose learned positions begin after the padding token's number.
_POSITIONS_AFTER_PADDING = frozenset(
    {
        *("roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert"),
        *("data2vec-text", "ibert", "xmod", "mpnet", "longformer", "luke", "esm"),
    }
)


def auto_class_name(task: str) -> str:
    """Return the name of the transformers class that loads a model with a task's head."""
    return TASKS.get(task).auto_class


def auto_class(task: str) -> Any:
    """Return the transformers class that loads a model with a task's head."""
    import transformers

    return getattr(transformers, auto_class_name(task))


def load_config(
    source: ModelSource,
    num_outputs: int,
    id2label: Sequence[str] | None = None,
    task: str | None = None,
    *,
    pad_token_id: int | None = None,
) -> Any:
    """Return the transformers config of the model with its task head described.

    Args:
        source: Where the model comes from.
        num_outputs: Width of the task head; 0 where the task has none.
        id2label: Class names by class number; None for regression.
        task: Name of the task, which decides ``problem_type``; None leaves that open.
        pad_token_id: What batches are padded with. Decoders with a classification head look
            for the last token that differs from it. Where it is not given and the config has
            none, the end token stands in.

    Raises:
        ModelError: missing, broken, offline, or an architecture transformers does not know.
    """
    from transformers import AutoConfig

    with clear_errors(source, "the configuration"), quiet_transformers():
        config = AutoConfig.from_pretrained(source.location, **source.load_arguments)
    if num_outputs:
        config.num_labels = num_outputs
    if id2label is not None:
        config.id2label = dict(enumerate(id2label))
        config.label2id = {label: number for number, label in enumerate(id2label)}
    config.problem_type = None if task is None else TASKS.get(task).problem_type
    _set_pad_token(config, pad_token_id)
    if source.attention in ("eager", "sdpa"):
        config._attn_implementation = source.attention
    config._name_or_path = source.public_name
    return config


def _set_pad_token(config: Any, pad_token_id: int | None) -> None:
    text = config.get_text_config()
    size = getattr(text, "vocab_size", None)
    if not isinstance(size, int):
        return
    if pad_token_id is None and getattr(text, "pad_token_id", None) is None:
        end = getattr(text, "eos_token_id", None)
        pad_token_id = end[0] if isinstance(end, list | tuple) else end
    if pad_token_id is not None and 0 <= pad_token_id < size:
        text.pad_token_id = pad_token_id


def max_positions(config: Any) -> int | None:
    """Return how many tokens an example may have; None where the model sets no limit.

    RoBERTa and its kin count positions from the padding token's number plus one
    (``create_position_ids_from_input_ids`` in transformers), and so lose as many.
    """
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    if text.model_type in _POSITIONS_AFTER_PADDING:
        return positions - int(text.pad_token_id or 0) - 1
    return positions


def load_model(
    source: ModelSource,
    config: Any,
    *,
    task: str = "classification",
    device: str | torch.device = "cpu",
) -> Any:
    """Load the frozen base model with a task's head, in evaluation mode.

    Weights are float32 unless the job asks for another type. The head's are random and meant
    to be replaced (see ``injection``). No parameter requires a gradient. The model's name is
    the public one, so that nothing PEFT writes names a local path. A quantised base has its
    linear layers quantised, those of the head aside; it is not prepared for training beyond
    that (gradients of inputs under gradient checkpointing are the training loop's).

    Raises:
        ModelError: weights cannot be read, do not fit, parts of the frozen base are missing, or
            the base is to be quantised and bitsandbytes is missing, or attention is to be
            computed by a package that is missing.
    """
    check_attention(source.attention, device)
    if source.attention == "flash_attention_2":
        config._attn_implementation = source.attention
    more = quantization_arguments(source, device, kept_in_full(source, config, task))
    with (
        clear_errors(source, "the weights"),
        quiet_transformers(),
        torch.random.fork_rng(devices=[]),
    ):
        torch.manual_seed(0)
        model, report = auto_class(task).from_pretrained(
            source.location,
            config=config,
            use_safetensors=True,
            dtype=source.dtype if source.dtype == "auto" else getattr(torch, source.dtype),
            output_loading_info=True,
            **more,
            **source.load_arguments,
        )
    head = head_paths(model, lacking_modules(model, source))
    missing = sorted(key for key in report["missing_keys"] if not is_below(key, head))
    misfit = sorted(str(entry[0]) for entry in report["mismatched_keys"])
    unfit = sorted({*missing, *(key for key in misfit if not is_below(key, head))})
    if unfit:
        raise ModelError(
            f"{source.public_name} has no weights for {len(unfit)} parameters of its frozen base, "
            f"such as {unfit[0]}; they would be random and differ at every loading",
            hint="use a checkpoint that holds the whole model (a pooler included)",
        )
    model.requires_grad_(False)
    model.eval()
    model.name_or_path = model.config._name_or_path = source.public_name
    return settle(model) if source.quantization else model.to(device)


def check_attention(attention: Attention, device: str | torch.device) -> None:
    """Make sure that attention can be computed so on a device.

    Raises:
        ModelError: it takes a GPU or a package that is missing.
    """
    if attention != "flash_attention_2":
        return
    instead = "leave model.attention out: sdpa is fused too"
    if torch.device(device).type != "cuda":
        raise ModelError(
            f"model.attention is {attention}, which runs on a CUDA GPU, not on the "
            f"{torch.device(device).type.upper()}",
            hint=f"set workers: {{gpus: 1}} where there is one, or {instead}",
        )
    if importlib.util.find_spec("flash_attn") is None:
        raise ModelError(
            f"model.attention is {attention}, which needs the package flash-attn",
            hint=f"pip install flash-attn, or {instead}",
        )


def kept_in_full(source: ModelSource, config: Any, task: str) -> tuple[str, ...]:
    """Return the paths of modules that a quantised base keeps as they are; none of another.

    Args:
        source: Where the model comes from.
        config: What :func:`load_config` returned.
        task: Name of the task, which decides the head.

    Raises:
        ModelError: bitsandbytes is missing, or the architecture has no such head.
    """
    if source.quantization is None:
        return ()
    check_can_quantize(source.quantization)
    with clear_errors(source, "the architecture"), quiet_transformers(), torch.device("meta"):
        model = auto_class(task).from_config(config)
    return kept_modules(model, head_paths(model, lacking_modules(model, source)))


def load_tokenizer(source: ModelSource) -> Any:
    """Return the model's tokenizer, with a padding token.

    Raises:
        ModelError: no tokenizer there, or one that cannot pad.
    """
    from transformers import AutoTokenizer

    with clear_errors(source, "the tokenizer"), quiet_transformers():
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
def clear_errors(source: ModelSource, part: str) -> Iterator[None]:
    """Turn whatever transformers, huggingface_hub or safetensors raise into a ModelError."""
    from huggingface_hub.errors import StrictDataclassError
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
        StrictDataclassError,
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
    if source.is_local:
        return "check the folder: it should be what save_pretrained of transformers wrote"
    if not is_hub_reachable():
        return (
            "the model hub does not answer and the model is not in its cache; check the network, "
            f"or use a folder or {BUILTIN_MODELS[0]}"
        )
    return (
        "check the name on huggingface.co and the network; without a network use a folder "
        f"or {BUILTIN_MODELS[0]}"
    )
