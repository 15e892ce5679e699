"""Tiny models with our methods in them, weights drawn so that every one of them matters."""

from __future__ import annotations

import copy
import functools
import warnings
from dataclasses import replace
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.search_spaces.method import get_method
from autopeft.workers.adapter_tensors import trainable_parameters
from autopeft.workers.injection import inject, known_warnings
from autopeft.workers.shapes import shape_from_config
from tests.search_spaces.shapes import bert_shape
from tests.workers import families


@functools.cache
def shape_of(family: str) -> ModelShape:
    config = families.config_of(family)
    return shape_from_config(config, f"tiny-{family}", families.TASK_OF[family])


@functools.cache
def _base(family: str) -> Any:
    return families.build(family).requires_grad_(False)


def base_of(family: str) -> Any:
    """Return a model of its own."""
    return copy.deepcopy(_base(family))


def module_of(method: str, shape: ModelShape, **settings: Any) -> Module:
    """Return a method with its default settings but for those given, on every layer."""
    layers = settings.pop("layers", tuple(range(shape.num_layers)))
    defaults = {each.name: each.default for each in get_method(method).dimensions(shape)}
    assert settings.keys() <= defaults.keys()
    return Module.of(method, layers, **(defaults | settings))


def injected(family: str, *modules: Module, seed: int = 0) -> Any:
    """Return the model in evaluation mode, what trains drawn anew."""
    configuration = Configuration(modules=modules, learning_rate=1e-3)
    model = inject(base_of(family), configuration, shape_of(family), seed)
    return draw(model).eval()


def draw(model: Any, *, scale: float = 0.3) -> Any:
    """Draw everything that trains anew."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            drawn = torch.randn(parameter.shape, generator=generator) * scale
            parameter.add_(drawn.to(parameter.dtype))
    return model


def wrapped(family: str, config: PeftConfig, **options: Any) -> PeftModel:
    with known_warnings(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return draw(get_peft_model(base_of(family), config, **options)).eval()


def run(model: Any, family: str, **more: Any) -> torch.Tensor:
    """Return the logits of the family's batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logits: torch.Tensor = model(**families.inputs(family), **more).logits
    return logits


def bert_base() -> ModelShape:
    """Return BERT-base: 12 layers, 768 wide."""
    layer = "bert.encoder.layer.{layer}."
    ends = {
        "attention_block": ("attention.self.query", "attention.output.dense"),
        "ffn_block": ("intermediate.dense", "output.dense"),
    }
    blocks = tuple(
        SiteShape(
            site=site,
            path=layer + begin,
            end_path=layer + end,
            in_features=768,
            out_features=768,
            has_bias=True,
            kind="block",
        )
        for site, (begin, end) in ends.items()
    )
    shape = bert_shape(num_layers=12, width=768, inner=3072, heads=12)
    return replace(shape, blocks=blocks, uses_attention_interface=True)
