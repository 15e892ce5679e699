"""Tiny models and representative modules: what every test of a method runs on.

A run is made once and looked at by many tests: a method's module in a model, its outputs at
the start, gradients and outputs of three training steps.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.search_spaces.method import METHODS, Dimension, get_method
from autopeft.search_spaces.methods._lora_type import LoraType
from autopeft.workers.adapter_tensors import trainable_parameters
from autopeft.workers.hooks import hooks_of
from autopeft.workers.injection import inject
from autopeft.workers.shapes import shape_from_config
from tests.workers import families

#: Which modules are tried on which family of models.
LABELS = {
    "bert": ("smallest", "default", "rich", "single-layer"),
    "llama": ("default", "rich"),
    "gpt2": ("default",),
    "t5": ("default",),
}
#: The same for methods that fit no text.
MEDIA_LABELS = {"vit": ("smallest", "default", "rich", "single-layer"), "ast": ("default", "rich")}
#: The same for methods that PEFT puts on a mixture of experts in a way of its own.
MIXTURE_LABELS = {"mixtral": ("default", "rich", "single-layer"), "qwen2-moe": ("rich",)}
STEPS = 3
LEARNING_RATE = 0.01


@dataclass(frozen=True, slots=True)
class Case:
    """One module on one model."""

    method: str
    family: str
    label: str
    module: Module

    def __str__(self) -> str:
        return f"{self.method}-{self.family}-{self.label}"

    @property
    def configuration(self) -> Configuration:
        """The module alone."""
        return Configuration(modules=(self.module,), learning_rate=LEARNING_RATE)


@functools.cache
def shape_of(family: str) -> ModelShape:
    """Return the shape of a family's tiny model for its own task."""
    config = families.config_of(family)
    shape = shape_from_config(config, f"tiny-{family}", families.TASK_OF[family])
    return dataclasses.replace(shape, num_free_positions=families.POSITIONS - 6)


@functools.cache
def base_of(family: str) -> Any:
    """Return the frozen tiny model; nothing in it is zero or one by chance of initialisation."""
    model = families.build(family)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(False)
        if parameter.ndim == 1 or name.endswith("bias"):
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
        else:
            parameter.mul_(3.0)
    return model


@functools.cache
def reference_of(family: str) -> torch.Tensor:
    """Return the outputs of the base model with the head that every case starts from."""
    nothing = Configuration(modules=(), learning_rate=LEARNING_RATE)
    return outputs(inject(base_of(family), nothing, shape_of(family), 1), family)


def modules_of(method: str, shape: ModelShape) -> dict[str, Module]:
    """Return representative modules by label; equal ones once, none where it is unavailable."""
    found = get_method(method)
    if found.unavailable(shape) is not None:
        return {}
    dimensions = found.dimensions(shape)
    everywhere = tuple(range(shape.num_layers))
    settings = {
        "default": {each.name: each.default for each in dimensions},
        "smallest": {each.name: _end(each, 0) for each in dimensions},
        "rich": {each.name: _end(each, -1) for each in dimensions},
    }
    layers = dict.fromkeys(settings, everywhere)
    if found.is_placeable:
        settings["single-layer"], layers["single-layer"] = settings["default"], everywhere[-1:]
    modules: dict[str, Module] = {}
    for label, values in settings.items():
        module = Module.of(method, layers[label], **found.canonical(values))
        if module not in modules.values():
            modules[label] = module
    return modules


def _end(dimension: Dimension, place: int) -> Any:
    """Return the smallest or largest value; of a subset one member or all of them."""
    if dimension.kind == "subset":
        return dimension.values[:1] if place == 0 else dimension.values
    return dimension.values[place]


def all_cases() -> Iterator[Case]:
    """Yield every method on every family that it is offered on."""
    for method in METHODS.names():
        found = list(_cases(method, LABELS))
        yield from found or _cases(method, MEDIA_LABELS)
        if not any(case.family in ("llama", "gpt2") for case in found):
            yield from _cases(method, {"qwen2": ("default",)})
        if isinstance(get_method(method), LoraType):
            yield from _cases(method, MIXTURE_LABELS)


def _cases(method: str, labels_of: Mapping[str, tuple[str, ...]]) -> Iterator[Case]:
    for family, labels in labels_of.items():
        modules = modules_of(method, shape_of(family))
        yield from (
            Case(method, family, label, modules[label]) for label in labels if label in modules
        )


@dataclass(slots=True)
class Run:
    """A case in a model, and what was seen when it was trained for a few steps."""

    case: Case
    shape: ModelShape
    base: Any
    model: Any
    trained_names: tuple[str, ...]
    num_trained: int
    start: torch.Tensor
    reference: torch.Tensor
    after: list[torch.Tensor] = field(default_factory=list)
    gradients: list[dict[str, torch.Tensor | None]] = field(default_factory=list)
    base_was_left: bool = False


def run_of(case: Case) -> Run:
    """Inject a case and train it for a few steps."""
    shape, base = shape_of(case.family), base_of(case.family)
    before = {key: tensor.clone() for key, tensor in base.state_dict().items()}
    model = inject(base, case.configuration, shape, 1)
    trained = trainable_parameters(model)
    run = Run(
        case=case,
        shape=shape,
        base=base,
        model=model,
        trained_names=tuple(trained),
        num_trained=sum(parameter.numel() for parameter in trained.values()),
        start=outputs(model, case.family),
        reference=reference_of(case.family),
    )
    train(run)
    after = base.state_dict()
    run.base_was_left = after.keys() == before.keys() and all(
        torch.equal(after[key], before[key]) for key in before
    )
    return run


def train(run: Run) -> None:
    """Take a few steps towards outputs that do not depend on the input."""
    hooks = hooks_of(run.case.configuration)
    parameters = [p for p in run.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0)
    for step in range(1, STEPS + 1):
        run.model.train()
        logits = raw_outputs(run.model, run.case.family)
        target = torch.arange(logits.shape[-1], dtype=torch.float32) % 3
        torch.autograd.backward((logits - target).square().mean())
        run.gradients.append(
            {
                name: None if p.grad is None else p.grad.detach().clone()
                for name, p in run.model.named_parameters()
                if p.requires_grad
            }
        )
        optimizer.step()
        hooks.after_step(run.model, step, STEPS)
        optimizer.zero_grad(set_to_none=True)
        run.after.append(outputs(run.model, run.case.family))


def raw_outputs(model: Any, family: str) -> torch.Tensor:
    """Return the logits of the tiny batch, those of virtual tokens left out."""
    batch = families.inputs(family)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logits = model(**batch).logits
    assert isinstance(logits, torch.Tensor)
    if logits.ndim < 3:
        return logits
    return logits[:, -batch.get("decoder_input_ids", batch["input_ids"]).shape[1] :]


def outputs(model: Any, family: str) -> torch.Tensor:
    """Return the logits in evaluation mode; the mode is left as it was."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = raw_outputs(model, family)
    model.train(was_training)
    return logits


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference relative to the spread of the second."""
    return float((one - other).abs().max() / other.std())


def fresh_base(family: str) -> Any:
    """Return a copy of the base that a test may change."""
    return copy.deepcopy(base_of(family))
