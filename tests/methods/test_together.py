"""Whatever the space lets stand together can be put into one model, trained, saved and loaded."""

from __future__ import annotations

import dataclasses
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.search_spaces.domains import domain_of
from autopeft.search_spaces.method import METHODS, get_method
from autopeft.search_spaces.space import SearchSpace, load_space
from autopeft.workers.adapter_tensors import adapter_tensors, fill_adapter, trainable_parameters
from autopeft.workers.injection import BARE_TYPES, inject
from tests.methods.cases import base_of, shape_of
from tests.workers import families

FAMILIES = ("bert", "llama")
#: One method of each family, small enough to try every set of them.
MIXED = ("ia3", "lora", "miss", "serial-adapter", "ssf")


def together(model_family: str) -> list[tuple[str, ...]]:
    """Return every pair of methods that may stand together on a family of models."""
    spec = {"combine": "any", "max_methods": 2, "methods": "all"}
    space = load_space(spec, shape_of(model_family))
    return [names for names in space.method_sets.all_sets(10**6) if len(names) == 2]


def default_of(name: str, family: str) -> Module:
    """Return a method's default module on the last layer, where one can be chosen."""
    method, shape = get_method(name), shape_of(family)
    everywhere = tuple(range(shape.num_layers))
    settings = {each.name: domain_of(each).default for each in method.dimensions(shape)}
    return Module.of(name, everywhere[-1:] if method.is_placeable else everywhere, **settings)


def logits(model: Any, family: str) -> torch.Tensor:
    found: torch.Tensor = model(**families.inputs(family)).logits
    return found


def check(configuration: Configuration, family: str, *, is_loaded: bool = True) -> None:
    """Inject, train one step's worth, save and load a configuration."""
    base, shape = base_of(family), shape_of(family)
    model = inject(base, configuration, shape).eval()  # asserts the set and its size
    trained = trainable_parameters(model)
    outputs = logits(model, family).float().square().sum()
    gradients = torch.autograd.grad(outputs, list(trained.values()), allow_unused=True)
    found = dict(zip(trained, gradients, strict=True))
    assert [name for name, gradient in found.items() if gradient is None] == []
    if not is_loaded:
        return
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
        moved = logits(model, family)
        stored = {
            group: {key: tensor.detach().clone() for key, tensor in tensors.items()}
            for group, tensors in adapter_tensors(model, shape.head_paths).items()
        }
        again = inject(base, configuration, shape).eval()
        assert not torch.allclose(logits(again, family), moved)
        fill_adapter(again, shape.head_paths, stored)
        assert torch.allclose(logits(again, family), moved, atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def mixed() -> SearchSpace:
    spec = {"combine": "any", "max_methods": 5, "placement": "last", "methods": list(MIXED)}
    return load_space(spec, shape_of("bert"))


@pytest.mark.parametrize(
    "names",
    [names for size in range(2, 6) for names in combinations(MIXED, size)],
    ids="+".join,
)
def test_every_set_of_a_composite_space(mixed: SearchSpace, names: tuple[str, ...]) -> None:
    assert names in mixed.method_sets
    modules = tuple(default_of(name, "bert") for name in names)
    check(Configuration(modules=modules, learning_rate=0.01), "bert")


def test_whatever_a_composite_space_draws(mixed: SearchSpace) -> None:
    for member in mixed.sample(4, np.random.default_rng(0)):
        check(member, "bert", is_loaded=False)


def test_types_that_need_bare_layers() -> None:
    methods = [get_method(name) for name in METHODS.names()]
    shape = shape_of("bert")
    types = [
        method.peft_config(shape, default_of(method.name, "bert"))["peft_type"]
        for method in methods
        if method.needs_bare_layers
    ]
    assert tuple(sorted(types)) == BARE_TYPES


@pytest.mark.parametrize("name", ["hra", "miss", "shira"])
def test_what_needs_bare_layers_is_put_on_first(name: str) -> None:
    module = default_of(name, "bert")
    if name == "miss":
        settings = {**module.as_dict(), "variant": "bat"}
        module = Module.of(name, module.layers, **settings)
    modules = (module, default_of("boft", "bert"))
    check(Configuration(modules=modules, learning_rate=0.01), "bert")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", METHODS.names())
def test_every_pair(name: str, family: str) -> None:
    """One test a method; it stands for all pairs in which it comes first by name."""
    pairs = [names for names in together(family) if names[0] == name]
    if not pairs:
        pytest.skip(f"{name} is the first of no pair on {family}")
    failed = {}
    for names in pairs:
        modules = tuple(default_of(each, family) for each in names)
        try:
            check(Configuration(modules=modules, learning_rate=0.01), family)
        except Exception as error:
            failed[names] = repr(error)[:200]
    assert failed == {}


#: Encoders whose heads differ: a pooler that the checkpoint lacks, a dense layer, none at all.
ENCODERS = ("deberta-v2", "modernbert", "distilbert", "roberta")


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize("names", [("lora",), ("serial-adapter",), ("lora", "serial-adapter")])
def test_on_every_encoder(names: tuple[str, ...], family: str) -> None:
    modules = tuple(default_of(each, family) for each in names)
    check(Configuration(modules=modules, learning_rate=0.01), family)


@pytest.mark.parametrize("name", ["prefix", "cartridge"])
def test_keys_from_outside_are_not_offered_under_gradient_checkpointing(name: str) -> None:
    shape = shape_of("llama")
    assert get_method(name).unavailable(shape) is None
    checkpointed = dataclasses.replace(shape, uses_gradient_checkpointing=True)
    reason = get_method(name).unavailable(checkpointed)
    assert reason is not None
    assert "gradient checkpointing" in reason


def passed_over(name: str, family: str, beside: str) -> list[str]:
    """Return the trained tensors of a method that get no gradient beside another one."""
    modules = tuple(everywhere(each, family) for each in sorted((name, beside)))
    model = inject(
        base_of(family), Configuration(modules=modules, learning_rate=0.01), shape_of(family)
    )
    trained = trainable_parameters(model.eval())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    found = logits(model, family)
    weights = torch.randn(found.shape, generator=generator)
    gradients = torch.autograd.grad(
        (found * weights).sum(), list(trained.values()), allow_unused=True
    )
    return [
        key
        for (key, _), gradient in zip(trained.items(), gradients, strict=True)
        if f"part_{name}" in key and (gradient is None or not gradient.any())
    ]


def everywhere(name: str, family: str) -> Module:
    """Return a method's module on every site that it has."""
    method, shape = get_method(name), shape_of(family)
    settings = {each.name: domain_of(each).default for each in method.dimensions(shape)}
    if "sites" in settings:
        (sites,) = (each for each in method.dimensions(shape) if each.name == "sites")
        settings["sites"] = sites.values
    return Module.of(name, tuple(range(shape.num_layers)), **settings)


#: What computes from the weight itself, and so must be put on before what wraps the layer.
READS_WEIGHTS = ("glora", "hra", "miss", "shira")


@pytest.mark.parametrize("beside", ["bias", "boft", "lora", "oft", "serial-adapter", "sparse-mask"])
@pytest.mark.parametrize("name", READS_WEIGHTS)
def test_neither_of_two_on_a_layer_is_passed_over(name: str, beside: str) -> None:
    space = load_space(
        {"combine": "any", "max_methods": 2, "methods": sorted((name, beside))}, shape_of("bert")
    )
    assert tuple(sorted((name, beside))) in space.method_sets
    assert passed_over(beside, "bert", name) == []
    # An offset that is the same for all features goes unnoticed before a normalisation.
    found = [key for key in passed_over(name, "bert", beside) if ".glora_E." not in key]
    assert found == []


@pytest.mark.parametrize("other", ["half", "last-layers", "norms"])
def test_normalisations_train_once(other: str) -> None:
    methods = sorted(("ln-tuning", other))
    space = load_space({"combine": "any", "max_methods": 2, "methods": methods}, shape_of("bert"))
    assert tuple(methods) not in space.method_sets
