"""Put a configuration into a model: one generic function that knows no method by name.

A configuration of one method becomes one PEFT adapter (``get_peft_model``). Several methods are
injected one after the other under distinct adapter names; PEFT then leaves a set of trainable
parameters that depends on the order, so the flags are set here, at the end. Either way the exact
set and its size are asserted, against the search space's own count.
"""

from __future__ import annotations

import copy
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import (
    PeftConfig,
    PeftModel,
    get_peft_config,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
)
from peft.utils import ModulesToSaveWrapper

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.method import get_method

#: Name of the group of tensors that holds the task head of a configuration saved as parts.
HEAD = "head"
#: PEFT's own marker for an adapter that matches no module: it then trains the head alone.
_NO_TARGETS = "dummy-target-modules"
_TASK_TYPE = "SEQ_CLS"
_PEFT_PREFIX = "base_model.model."


def inject(
    model: Any,
    configuration: Configuration,
    shape: ModelShape,
    seed: int = 0,
    *,
    initial_outputs: NDArray[np.float32] | None = None,
) -> Any:
    """Return a new model that carries the configuration over the frozen weights of ``model``.

    The module tree is new and the frozen storages are shared, so this costs no copy of the base,
    and ``model`` is left as it was, to the last bit. Head and adapters depend on the seed alone;
    the head's start is the same under every configuration. The global random state is kept.

    Args:
        model: Frozen base with a task head; may live on the meta device.
        configuration: What to inject; without modules the head trains alone.
        shape: Shape of ``model``.
        seed: Seed of the trial.
        initial_outputs: ``num_outputs`` values the head's last bias starts at; zeros where None.

    Returns:
        A ``PeftModel``, or for several methods the injected transformers model. Exactly the
        adapters and the head require gradients.

    Raises:
        AssertionError: PEFT built something else than the search space counted.
    """
    fresh, frozen = _copy_over_frozen(model, shape)
    initialise_head(fresh, shape, seed, initial_outputs)
    if is_saved_as_parts(configuration):
        injected = inject_parts(fresh, peft_configs(configuration, shape), seed)
        intended = None
    else:
        (config,) = peft_configs(configuration, shape).values()
        with _seeded(seed, "adapter"), known_warnings():
            injected = get_peft_model(fresh, config)
        if getattr(config, "modules_to_save", None):
            # PEFT adds its two head names once for each class on the way.
            config.modules_to_save = list(dict.fromkeys(config.modules_to_save))
        intended = {name for name, p in injected.named_parameters() if p.requires_grad}
    trainable = set_trainable(injected, frozen)
    if intended is not None and trainable != intended:
        raise AssertionError(f"PEFT trains another set: {sorted(trainable ^ intended)[:4]}")
    _assert_count(injected, configuration, shape)
    return injected


def trainable_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """Return the parameters that train, by name, in the model's order."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def is_saved_as_parts(configuration: Configuration) -> bool:
    """Tell whether the configuration takes more than one plain PEFT adapter to save."""
    modules = configuration.modules
    return len(modules) > 1 or any(get_method(m.method).saved_as != "peft" for m in modules)


def peft_configs(configuration: Configuration, shape: ModelShape) -> dict[str, PeftConfig]:
    """Return the PEFT config of each part by the method's name, in the order of injection.

    Without modules there is one part, ``"none"``, that trains the head alone. Prompt learning
    wraps the whole model and therefore comes last. Among several parts only prompt learning
    names the task: PEFT cannot load a part that names it and brings no head.
    """
    configs: dict[str, PeftConfig] = {}
    for module in configuration.modules:
        arguments = dict(get_method(module.method).peft_config(shape, module))
        configs[module.method] = get_peft_config(arguments)
    if not configs:
        arguments = {"peft_type": "LORA", "r": 1, "target_modules": _NO_TARGETS}
        configs["none"] = get_peft_config(arguments)
    ordered = dict(sorted(configs.items(), key=lambda item: item[1].is_prompt_learning))
    for config in ordered.values():
        config.base_model_name_or_path = shape.name
        if len(ordered) == 1 or config.is_prompt_learning:
            config.task_type = _TASK_TYPE
    return ordered


def inject_parts(model: Any, configs: Mapping[str, PeftConfig], seed: int = 0) -> Any:
    """Inject several adapters into ``model`` itself, in the order of ``configs``.

    Adapter names are ``part_<name>``. At most one part may be prompt learning, the last.
    """
    for name, config in configs.items():
        with _seeded(seed, name), known_warnings():
            if config.is_prompt_learning:
                model = get_peft_model(model, config, adapter_name=adapter_name(name))
                config.modules_to_save = None
            else:
                model = inject_adapter_in_model(config, model, adapter_name=adapter_name(name))
    return model


def adapter_name(part: str) -> str:
    """Return PEFT's adapter name of a part; it is part of no key and no file."""
    return f"part_{part}"


def adapter_tensors(model: Any, head_paths: Sequence[str]) -> dict[str, dict[str, torch.Tensor]]:
    """Return the live trained tensors of an injected model under the keys PEFT saves them by.

    Writing into them writes into the model.

    Args:
        model: Injected model.
        head_paths: Paths of the task head in the base model.

    Returns:
        ``{"": {...}}`` for one plain PEFT adapter, head included; else one group for each part
        by method name, free of the nesting that repeated injection puts into the keys, and
        the group ``"head"``.
    """
    if isinstance(model, PeftModel) and set(model.peft_config) == {"default"}:
        groups = {"": _plain_tensors(model)}
    else:
        groups = _part_tensors(model, head_paths)
    covered = {_address(t) for group in groups.values() for t in group.values()}
    left = [n for n, p in trainable_parameters(model).items() if _address(p) not in covered]
    assert not left, f"trained but saved under no key: {left[:4]}"
    return groups


def fill_adapter(
    model: Any, head_paths: Sequence[str], stored: Mapping[str, Mapping[str, torch.Tensor]]
) -> None:
    """Copy stored tensors, grouped as by :func:`adapter_tensors`, into an injected model.

    Raises:
        ValueError: they belong to another model or configuration.
    """
    live = adapter_tensors(model, head_paths)
    for group in sorted(live.keys() | stored.keys()):
        inside, outside = live.get(group, {}), stored.get(group, {})
        if inside.keys() != outside.keys():
            odd = sorted(inside.keys() ^ outside.keys())[:3]
            raise ValueError(f"other adapter tensors, for example {', '.join(odd)}")
        for key, tensor in inside.items():
            if tensor.shape != outside[key].shape:
                raise ValueError(
                    f"{key} has shape {tuple(outside[key].shape)}, expected {tuple(tensor.shape)}"
                )
            tensor.copy_(outside[key])


def _plain_tensors(model: PeftModel) -> dict[str, torch.Tensor]:
    tensors = dict(get_peft_model_state_dict(model, save_embedding_layers=False))
    if model.peft_config["default"].is_prompt_learning:
        # PEFT returns a computed copy here; the weight itself is the same numbers, alive.
        tensors["prompt_embeddings"] = model.prompt_encoder["default"].embedding.weight.data
    return tensors


def _part_tensors(model: Any, head_paths: Sequence[str]) -> dict[str, dict[str, torch.Tensor]]:
    groups: dict[str, dict[str, torch.Tensor]] = {}
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    head = {
        f"{path}.{name}": parameter.data
        for path in head_paths
        for name, parameter in _trained_head(base.get_submodule(path)).named_parameters()
    }
    for adapter in getattr(base, "peft_config", {}):
        tensors = get_peft_model_state_dict(base, adapter_name=adapter, save_embedding_layers=False)
        groups[adapter.removeprefix("part_")] = {
            _PEFT_PREFIX + key.replace(".base_layer.", "."): tensor
            for key, tensor in tensors.items()
        }
    if isinstance(model, PeftModel):
        for adapter, encoder in model.prompt_encoder.items():
            weight = encoder.embedding.weight.data
            groups[adapter.removeprefix("part_")] = {"prompt_embeddings": weight}
    groups[HEAD] = head
    return groups


def _trained_head(module: torch.nn.Module) -> torch.nn.Module:
    """Return the copy of a head that trains, where PEFT keeps one beside the original."""
    if isinstance(module, ModulesToSaveWrapper):
        trained: torch.nn.Module
        (trained,) = module.modules_to_save.values()
        return trained
    return module


def _address(tensor: torch.Tensor) -> int:
    return tensor.data_ptr() if tensor.device.type != "meta" else 0


def initialise_head(
    model: Any,
    shape: ModelShape,
    seed: int,
    initial_outputs: NDArray[np.float32] | None = None,
) -> None:
    """Draw the task head from the seed: normal weights, zero biases, normalisations at identity.

    The bias of the head's last layer starts at ``initial_outputs`` where they are given.

    The standard deviation is the config's ``initializer_range`` (0.02 where it has none), as in
    transformers. Numbers are drawn on the CPU, so that every device starts alike.
    """
    deviation = float(getattr(model.config, "initializer_range", None) or 0.02)
    generator = torch.Generator().manual_seed(derive_seed(seed, "head"))
    with torch.no_grad():
        for path in shape.head_paths:
            for module in model.get_submodule(path).modules():
                for name, parameter in module.named_parameters(recurse=False):
                    if name == "bias":
                        parameter.zero_()
                    elif isinstance(module, torch.nn.LayerNorm):
                        parameter.fill_(1.0)
                    else:
                        drawn = torch.randn(parameter.shape, generator=generator) * deviation
                        parameter.copy_(drawn)
        if initial_outputs is not None:
            biases = [
                parameter
                for path in shape.head_paths
                for name, parameter in model.get_submodule(path).named_parameters()
                if name.endswith("bias") and parameter.shape == initial_outputs.shape
            ]
            if biases:
                biases[-1].copy_(torch.from_numpy(initial_outputs))


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return an independent 63-bit seed for a purpose; equal in any process."""
    words = [zlib.crc32(p.encode()) if isinstance(p, str) else p for p in purpose]
    state = np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def set_trainable(model: Any, frozen: set[int]) -> set[str]:
    """Let everything train that is neither frozen base nor PEFT's copy of the original head.

    Args:
        model: Injected model.
        frozen: ``id`` of each frozen parameter.

    Returns:
        The names that train.
    """
    for name, parameter in model.named_parameters():
        trains = id(parameter) not in frozen and ".original_module." not in name
        parameter.requires_grad_(trains)
    return set(trainable_parameters(model))


def _copy_over_frozen(model: Any, shape: ModelShape) -> tuple[Any, set[int]]:
    """Copy the module tree; frozen weights become new parameters over the same storage."""
    prefixes = tuple(f"{path}." for path in shape.head_paths)
    memo: dict[int, Any] = {}
    views: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not name.startswith(prefixes):
            view = torch.nn.Parameter(parameter.detach(), requires_grad=False)
            memo[id(parameter)] = view
            views.append(view)
    fresh = copy.deepcopy(model, memo)
    return fresh, {id(view) for view in views}


def _assert_count(model: Any, configuration: Configuration, shape: ModelShape) -> None:
    built = sum(parameter.numel() for parameter in trainable_parameters(model).values())
    counted = shape.num_head_parameters + sum(
        get_method(module.method).num_parameters(shape, module) for module in configuration.modules
    )
    assert built == counted, (
        f"{configuration}: PEFT built {built} trainable parameters, the space counted {counted}"
    )


@contextmanager
def _seeded(seed: int, *purpose: str) -> Iterator[None]:
    """Draw from a seed of its own and leave the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        # PEFT draws on the CPU and moves the result to the base layer's device.
        torch.default_generator.manual_seed(derive_seed(seed, *purpose))
        yield


@contextmanager
def known_warnings() -> Iterator[None]:
    """Hide what transformers and PEFT say about what is done here on purpose."""
    with warnings.catch_warnings():
        for message in (
            "`is_gradient_checkpointing` is deprecated",  # asked by PEFT, not by us
            "Already found a `peft_config` attribute",  # several parts, distinct names
            "You are trying to modify a model with PEFT for a second time",  # the same
        ):
            warnings.filterwarnings("ignore", message=message)
        yield
