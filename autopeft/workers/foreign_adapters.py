"""Build what a file describes, also somebody else's ``adapter_config.json``, to account for it.

PEFT itself builds configurations that no method here stands for: other fields than those that
are searched, or types that are not offered. Nothing is loaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftConfig, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers.pytorch_utils import Conv1D

from autopeft.errors import AutopeftError, InvalidSpaceError
from autopeft.records import ModelShape
from autopeft.search_spaces.adapter_configs import module_of_config
from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.method import METHODS
from autopeft.workers.injection import _building, _prepare, known_warnings
from autopeft.workers.memory import MemoryModel
from autopeft.workers.modules import register_all


def build_described(
    memory: MemoryModel, shape: ModelShape, written: Mapping[str, Any] | None
) -> tuple[str, Any]:
    """Return what trains, in words, and the model that carries it, on the meta device.

    Args:
        memory: Gives the base model.
        shape: Its shape.
        written: An ``adapter_config.json``, a configuration as
            :meth:`~autopeft.search_spaces.configuration.Configuration.to_json` writes it, or
            None for full fine-tuning.

    Raises:
        InvalidSpaceError: it is neither, or does not fit the model.
    """
    if written is None:
        return "full fine-tuning", memory.base().requires_grad_(True)
    if "peft_type" not in written:
        if "modules" not in written:
            raise InvalidSpaceError(
                "the configuration says neither peft_type nor modules",
                hint="give an adapter_config.json of PEFT, or a configuration of AutoPEFT's",
            )
        configuration = Configuration.from_json(written)
        return str(configuration), _injected(memory, configuration)
    config = peft_config_of(written)
    built = _known(memory, shape, written)
    if built is None:
        built = inject_foreign(memory.base(), config)
    return str(written["peft_type"]), built


def _known(memory: MemoryModel, shape: ModelShape, written: Mapping[str, Any]) -> Any:
    """Return the model with the module that stands for a config; None where none can."""
    module = module_of_config(shape, written)
    if module is None:
        return None
    try:
        return memory.build(Configuration(modules=(module,), learning_rate=1.0))
    except Exception:  # what PEFT makes of the file itself is what counts then
        return None


def _injected(memory: MemoryModel, configuration: Configuration) -> Any:
    try:
        return memory.build(configuration)
    except AutopeftError:
        raise
    except Exception as error:  # a configuration of another model, or edited by hand
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, KeyError):
            reason = f"it lacks {reason}, or names what the model does not have"
        raise InvalidSpaceError(
            f"the configuration does not fit the model: {reason}",
            hint="autopeft methods --model NAME lists what is available on it",
        ) from error


def peft_config_of(config: Mapping[str, Any]) -> PeftConfig:
    """Return PEFT's config for the contents of an ``adapter_config.json``, to be trained.

    Fields that the installed PEFT does not know are left out where they say "not used".

    Raises:
        InvalidSpaceError: an unknown type or field, or values that PEFT refuses.
    """
    register_all()
    kind = config.get("peft_type")
    if kind not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise InvalidSpaceError(
            f"peft_type is {kind!r}, which the installed PEFT does not have",
            hint=f"choose one of: {', '.join(sorted(map(str, PEFT_TYPE_TO_CONFIG_MAPPING)))}",
        )
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    known = {field.name for field in dataclasses.fields(config_class) if field.init}
    unknown = [name for name, value in config.items() if name not in known and value]
    if unknown:
        raise InvalidSpaceError(
            f"{kind} of the installed PEFT has no field {unknown[0]!r}",
            hint="take the field out, or install the PEFT that wrote the file",
        )
    arguments = {name: value for name, value in config.items() if name in known}
    arguments |= {"base_model_name_or_path": None, "inference_mode": False}
    arguments.pop("peft_type", None)
    try:
        with known_warnings():
            found: PeftConfig = config_class(**arguments)
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidSpaceError(f"PEFT refuses the {kind} configuration: {error}") from error
    return found


def inject_foreign(model: Any, config: PeftConfig) -> Any:
    """Return a ``PeftModel`` over ``model``, which is changed.

    Raises:
        InvalidSpaceError: PEFT cannot build it on this model.
    """
    names = [
        name
        for name in METHODS.names()
        if getattr(METHODS.get(name), "peft_type", None) == config.peft_type
        and METHODS.get(name).module_file is not None
    ]
    configs = dict.fromkeys(names[:1], config)
    try:
        with known_warnings(), _building(model, configs):
            injected = get_peft_model(model, config)
        _prepare(injected, configs, lambda _: "default")
    except Exception as error:  # PEFT raises whatever its methods meet
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidSpaceError(
            f"PEFT cannot build this {_plain(config.peft_type)} on the model: {reason}",
            hint=f"linear layers of the model are called {_layer_names(model)}",
        ) from error
    return injected


def _plain(peft_type: Any) -> str:
    """Return the name of a PEFT type, which is text or an enumeration's member."""
    return str(getattr(peft_type, "value", peft_type))


def _layer_names(model: Any) -> str:
    """Return what ``target_modules`` can name: the last parts of linear layers' paths."""
    kinds = (torch.nn.Linear, Conv1D)
    paths = (path for path, module in model.named_modules() if isinstance(module, kinds))
    names = {path.removesuffix(".base_layer").rpartition(".")[2] for path in paths}
    return ", ".join(sorted(names))
