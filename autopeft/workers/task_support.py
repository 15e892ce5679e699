"""Which tasks a model can be trained for, told from its configuration alone."""

from __future__ import annotations

from typing import Any

from autopeft.errors import ModelError
from autopeft.workers.model_sources import BUILTIN_MODELS, ModelSource
from autopeft.workers.task_names import CAUSAL_LM
from autopeft.workers.tasks.base import TASKS


def check_supports(source: ModelSource, config: Any, task: str) -> None:
    """Make sure that a model can have the head of a task.

    What cannot be told (code that comes with the model, a task of a plugin's own class) passes:
    building the model will tell.

    Args:
        source: Where the model comes from.
        config: What ``load_config`` returned.
        task: Name of the task.

    Raises:
        ModelError: it cannot.
    """
    if _supports(source, config, task):
        return
    words = {"lm": "language model"}
    head = " ".join(words.get(part, part) for part in task.split("-"))
    kind = "an encoder" if is_encoder(config) else "a model"
    others = [name for name in TASKS.names() if _supports(source, config, name)]
    able = f"it can be trained for: {', '.join(others)}" if others else "no task here fits it"
    choice = "set task to one of these, or " if others else ""
    example = f", such as {BUILTIN_MODELS[1]}" if task == CAUSAL_LM else ""
    raise ModelError(
        f"{source.public_name} is {kind} of type {config.model_type}, which has no {head} head; "
        f"{able}",
        hint=f"{choice}choose a model that can be trained for {task}{example}",
    )


def is_encoder(config: Any) -> bool:
    """Tell whether every token sees the ones after it too, as in BERT.

    Transformers has causal heads for such models, meant for those that were trained as decoders
    (``is_decoder``): over an encoder, a token to be predicted is seen already.
    """
    import transformers

    is_decoder = getattr(config, "is_decoder", getattr(config, "causal", True))
    is_masked = type(config) in transformers.AutoModelForMaskedLM._model_mapping
    return is_masked and is_decoder is False and not getattr(config, "is_encoder_decoder", False)


def _supports(source: ModelSource, config: Any, task: str) -> bool:
    import transformers

    name = TASKS.get(task).auto_class
    mapping = getattr(getattr(transformers, name, None), "_model_mapping", None)
    if mapping is None or name in (getattr(config, "auto_map", None) or {}):
        return True
    if task == CAUSAL_LM and is_encoder(config):
        return False
    return type(config) in mapping
