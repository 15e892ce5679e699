"""Every method runs where there are shapes and no numbers: memory is predicted that way."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.search_spaces.method import METHODS, get_method
from autopeft.workers.adapter_tensors import trainable_parameters
from autopeft.workers.injection import inject
from autopeft.workers.shapes import meta_model
from tests.methods import cases
from tests.workers import families

FAMILIES = ("bert", "llama")


def default_modules() -> list[tuple[str, Module]]:
    """Return each method's default on the first family that it is offered on."""
    found = []
    for name in METHODS.names():
        for family in FAMILIES:
            modules = cases.modules_of(name, cases.shape_of(family))
            if modules:
                found.append((family, modules["default"]))
                break
    return found


@functools.cache
def meta_base(family: str) -> Any:
    return meta_model(families.config_of(family), families.TASK_OF[family])


@pytest.mark.parametrize(
    ("family", "module"),
    default_modules(),
    ids=lambda value: value.method if isinstance(value, Module) else value,
)
def test_a_step_runs_without_numbers(family: str, module: Module) -> None:
    shape = cases.shape_of(family)
    configuration = Configuration(modules=(module,), learning_rate=0.1)
    model = inject(meta_base(family), configuration, shape).train()
    batch = families.inputs(family)
    outputs = model(input_ids=batch["input_ids"].to("meta"))
    outputs.logits.float().mean().backward()
    trained = trainable_parameters(model)
    counted = get_method(module.method).num_parameters(shape, module) + shape.num_head_parameters

    assert {parameter.device.type for parameter in trained.values()} == {"meta"}
    assert sum(parameter.numel() for parameter in trained.values()) == counted
