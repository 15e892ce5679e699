"""Put a configuration into a model: one generic function that knows no method by name.

A configuration of one method becomes one PEFT adapter (``get_peft_model``). Several methods are
injected one after the other under distinct adapter names; PEFT then leaves a set of trainable
parameters that depends on the order. What trains is therefore noted after each injection, as
the new parameters for which PEFT asks gradients, and the flags are set here, at the end. The
set holds nothing of the frozen base, and its size is asserted against the search space's own
count.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import (
    PeftConfig,
    PeftModel,
    get_peft_config,
    get_peft_model,
    inject_adapter_in_model,
)

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.method import get_method
from autopeft.workers.adapter_tensors import adapter_name, trainable_parameters
from autopeft.workers.heads import PEFT_HEAD_NAMES, initialise_head, trained_head
from autopeft.workers.hooks import module_of
from autopeft.workers.modules._shapes_only import no_random_start
from autopeft.workers.quantization import scales_of
from autopeft.workers.seeds import seeded
from autopeft.workers.tasks.base import TASKS

_sparse_checks: Any = torch.sparse.check_sparse_tensor_invariants
if not _sparse_checks.is_enabled():
    # As by default, but said aloud: else the products of SHiRA and FRoD in PEFT warn about it.
    _sparse_checks.disable()

#: PEFT's own marker for an adapter that matches no module: it then trains the head alone.
_NO_TARGETS = "dummy-target-modules"
#: Name of the one part of a configuration without modules.
_HEAD_ALONE = "none"
#: PEFT types of the methods with ``needs_bare_layers``.
BARE_TYPES = ("ADALORA", "GLORA", "HRA", "MISS", "SHIRA")
#: What follows an adapter's name in a parameter's name.
_RESTS = ("", ".weight")


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
    configs = peft_configs(configuration, shape)
    if is_saved_as_parts(configuration):
        injected, intended = _inject_each(fresh, configs, seed)
        intended |= {id(parameter) for parameter in _head_parameters(injected, shape)}
    else:
        (config,) = configs.values()
        with seeded(seed, "adapter"), known_warnings(), _building(fresh, configs):
            injected = get_peft_model(fresh, config)
        _prepare(injected, configs, lambda _: "default")
        if getattr(config, "modules_to_save", None):
            # PEFT adds its two head names once for each class on the way.
            config.modules_to_save = list(dict.fromkeys(config.modules_to_save))
        intended = {id(p) for p in injected.parameters() if p.requires_grad}
        if getattr(config, "modules_to_save", None) is None:
            intended |= {id(parameter) for parameter in _head_parameters(injected, shape)}
    kept = tuple(
        ending for module in configuration.modules for ending in _frozen_endings(module.method)
    )
    keep_in_float32(p for p in injected.parameters() if id(p) in intended)
    trainable = set_trainable(injected, intended, kept)
    _assert_set(injected, trainable, frozen)
    _assert_count(injected, configuration, shape)
    return injected


def is_saved_as_parts(configuration: Configuration) -> bool:
    """Tell whether the configuration takes more than one PEFT adapter to save.

    A method of ours alone is one PEFT adapter too, of a type that its module file registers.
    """
    modules = configuration.modules
    return len(modules) > 1 or any(get_method(m.method).saved_as == "peft-parts" for m in modules)


def peft_configs(configuration: Configuration, shape: ModelShape) -> dict[str, PeftConfig]:
    """Return the PEFT config of each part by the method's name, in the order of injection.

    Without modules there is one part, ``"none"``, that trains the head alone. Prompt learning
    wraps the whole model and therefore comes last. Among several parts only prompt learning
    names the task: PEFT cannot load a part that names it and brings no head.
    """
    task_type = TASKS.get(shape.task).peft_task_type
    configs: dict[str, PeftConfig] = {}
    for module in configuration.modules:
        method = get_method(module.method)
        module_of(module.method)
        arguments = dict(method.peft_config(shape, module))
        with known_warnings():
            configs[module.method] = get_peft_config(arguments)
    if not configs:
        arguments = {"peft_type": "LORA", "r": 1, "target_modules": _NO_TARGETS}
        configs[_HEAD_ALONE] = get_peft_config(arguments)
    ordered = dict(sorted(configs.items(), key=lambda item: injection_order(item[1])))
    for config in ordered.values():
        config.base_model_name_or_path = shape.name
        if len(ordered) == 1 or config.is_prompt_learning:
            config.task_type = task_type
            # PEFT adds its own head names for the tasks it knows.
            own = () if task_type is None else PEFT_HEAD_NAMES
            new = [path for path in shape.head_paths if not path.endswith(own)]
            if new and hasattr(config, "modules_to_save"):
                config.modules_to_save = new
    return ordered


def injection_order(config: PeftConfig) -> tuple[bool, bool, int]:
    """Return when a part is injected.

    What needs bare layers comes first, whole blocks after single layers, prompt learning last.
    """
    is_late = config.peft_type not in BARE_TYPES
    return config.is_prompt_learning, is_late, getattr(config, "injection_order", 0)


def inject_parts(model: Any, configs: Mapping[str, PeftConfig], seed: int = 0) -> Any:
    """Inject several adapters into ``model`` itself, in the order of ``configs``.

    Adapter names are ``part_<name>``. At most one part may be prompt learning, the last.
    """
    return _inject_each(model, configs, seed)[0]


def _inject_each(model: Any, configs: Mapping[str, PeftConfig], seed: int) -> tuple[Any, set[int]]:
    """Inject several adapters; return also the ``id`` of each parameter that PEFT would train."""
    intended: set[int] = set()
    for name, config in configs.items():
        before = {id(parameter) for parameter in model.parameters()}
        with seeded(seed, name), known_warnings(), _building(model, {name: config}):
            if config.is_prompt_learning:
                model = get_peft_model(model, config, adapter_name=adapter_name(name))
                config.modules_to_save = None
            else:
                model = inject_adapter_in_model(config, model, adapter_name=adapter_name(name))
        intended |= {id(p) for p in model.parameters() if p.requires_grad and id(p) not in before}
    _prepare(model, configs, adapter_name)
    return model, intended


def _prepare(
    model: Any, configs: Mapping[str, PeftConfig], adapter_of: Callable[[str], str]
) -> None:
    """Let each method's module file add what PEFT does not build (its function ``prepare``)."""
    for name in configs:
        prepare = getattr(_file_of(name), "prepare", None)
        if prepare is not None:
            prepare(model, adapter_of(name))


@contextmanager
def _building(model: Any, methods: Iterable[str]) -> Iterator[None]:
    """Build on the model's device; where it has no numbers, do without those that PEFT asks for.

    A method whose start depends on the weights stands in shapes for it (``on_meta`` of its
    module file), so that memory can be predicted.
    """
    with ExitStack() as stack:
        if next(model.parameters()).device.type == "meta":
            stack.enter_context(no_random_start())
            for method in methods:
                on_meta = getattr(_file_of(method), "on_meta", None)
                if on_meta is not None:
                    stack.enter_context(on_meta())
        yield


def _file_of(part: str) -> Any:
    return None if part == _HEAD_ALONE else module_of(part)


def set_trainable(model: Any, intended: set[int], kept: tuple[str, ...] = ()) -> set[str]:
    """Let exactly the intended parameters train.

    Args:
        model: Injected model.
        intended: ``id`` of each parameter that is to train.
        kept: Endings of names that do not train all the same.

    Returns:
        The names that train.
    """
    for name, parameter in model.named_parameters():
        trains = id(parameter) in intended and not name.endswith(kept)
        parameter.requires_grad_(trains)
    return set(trainable_parameters(model))


def keep_in_float32(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Turn parameters of half precision into float32, in place.

    PEFT does so for most adapters over a base of half precision, but neither for the head, nor
    for layers that it copies whole, nor for several adapters in one model. Parameters without
    numbers stay as they are: what is predicted from them runs without autocast.
    """
    for parameter in parameters:
        if parameter.is_floating_point() and parameter.itemsize < 4 and not parameter.is_meta:
            parameter.data = parameter.data.float()


def _head_parameters(model: Any, shape: ModelShape) -> list[torch.nn.Parameter]:
    """Return the parameters of the task head that train."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    heads = (trained_head(base.get_submodule(path)) for path in shape.head_paths)
    return [parameter for head in heads for parameter in head.parameters()]


def _frozen_endings(method: str) -> tuple[str, ...]:
    """Return the endings of parameter names that stay frozen, with every adapter's name."""
    endings = get_method(method).frozen_parameters
    names = ("default", adapter_name(method))
    return tuple(
        f"{ending}.{name}{rest}" for ending in endings for name in names for rest in _RESTS
    )


def _assert_set(model: Any, trainable: set[str], frozen: Container[int]) -> None:
    """Assert that nothing of the frozen base trains, nor PEFT's copy of the original head."""
    wrong = [
        name
        for name, parameter in model.named_parameters()
        if name in trainable and (id(parameter) in frozen or ".original_module." in name)
    ]
    assert not wrong, f"PEFT would train what is frozen: {wrong[:4]}"


def _copy_over_frozen(model: Any, shape: ModelShape) -> tuple[Any, dict[int, torch.nn.Parameter]]:
    """Copy the module tree; frozen weights become new parameters over the same storage.

    These are returned by ``id``, and so kept: PEFT may replace one, and its ``id`` would be free.
    """
    prefixes = tuple(f"{path}." for path in shape.head_paths)
    memo: dict[int, Any] = scales_of(model)
    views: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not name.startswith(prefixes):
            view = _view(parameter)
            memo[id(parameter)] = view
            views.append(view)
    fresh = copy.deepcopy(model, memo)
    return fresh, {id(view): view for view in views}


def _view(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    """Return a frozen parameter over the same storage.

    A quantised weight is of a class of its own and knows its scales: both stay.
    """
    if type(parameter) is torch.nn.Parameter:
        return torch.nn.Parameter(parameter.detach(), requires_grad=False)
    # The constructors of such classes would quantise anew.
    view: torch.nn.Parameter = torch.Tensor._make_subclass(
        type(parameter), parameter.detach(), False
    )
    vars(view).update(vars(parameter))
    return view


def _assert_count(model: Any, configuration: Configuration, shape: ModelShape) -> None:
    built = sum(parameter.numel() for parameter in trainable_parameters(model).values())
    counted = shape.num_head_parameters + sum(
        get_method(module.method).num_parameters(shape, module) for module in configuration.modules
    )
    assert built == counted, (
        f"{configuration}: PEFT built {built} trainable parameters, the space counted {counted}"
    )


@contextmanager
def known_warnings() -> Iterator[None]:
    """Hide what transformers and PEFT say about what is done here on purpose."""
    with warnings.catch_warnings():
        for message in (
            "`is_gradient_checkpointing` is deprecated",  # asked by PEFT, not by us
            "Already found a `peft_config` attribute",  # several parts, distinct names
            "You are trying to modify a model with PEFT for a second time",  # the same
            "Unsupported layer type",  # LN tuning copies any normalisation as it is
            # A Conv1D in few bits is a linear layer like any other.
            "fan_in_fan_out is set to True but the target module is `torch.nn.Linear`",
            "Specified to not save basis_A",  # RandLoRA's bases follow from their seed
        ):
            warnings.filterwarnings("ignore", message=message)
        yield
