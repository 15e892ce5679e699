from __future__ import annotations

from typing import Any

import pytest
import torch

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.workers.adapter_tensors import adapter_tensors, fill_adapter, trainable_parameters
from autopeft.workers.injection import inject
from tests.workers import tiny


def test_keys_of_parts_are_those_of_plain_adapters(tiny_base: Any, tiny_shape: ModelShape) -> None:
    groups = adapter_tensors(
        inject(tiny_base, tiny.configuration("mixture"), tiny_shape, 1), tiny_shape.head_paths
    )
    plain = {
        name: adapter_tensors(
            inject(tiny_base, tiny.configuration(name), tiny_shape, 1), tiny_shape.head_paths
        )[""]
        for name in ("beft", "ia3", "lora")
    }
    without_head = {
        name: {key for key in tensors if "classifier" not in key} for name, tensors in plain.items()
    }

    assert {name: set(groups[name]) for name in plain} == without_head
    assert set(groups["head"]) == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("name", tiny.CONFIGURATIONS)
def test_filling_an_adapter_restores_every_trained_number(
    name: str, tiny_base: Any, tiny_shape: ModelShape
) -> None:
    chosen = tiny.configuration(name)
    trained = inject(tiny_base, chosen, tiny_shape, 1)
    with torch.no_grad():
        for parameter in trainable_parameters(trained).values():
            parameter.add_(torch.linspace(0.1, 0.5, parameter.numel()).view_as(parameter))
    fresh = inject(tiny_base, chosen, tiny_shape, 2)
    fill_adapter(fresh, tiny_shape.head_paths, adapter_tensors(trained, tiny_shape.head_paths))

    pairs = zip(
        trainable_parameters(trained).items(), trainable_parameters(fresh).items(), strict=True
    )
    assert all(one[0] == two[0] and torch.equal(one[1], two[1]) for one, two in pairs)
    assert torch.equal(tiny.outputs(trained), tiny.outputs(fresh))


def test_filling_with_tensors_of_another_shape_is_refused(
    tiny_base: Any, tiny_shape: ModelShape
) -> None:
    wide = Configuration(
        modules=(Module.of("lora", tiny.LAYERS, **{**tiny.LORA.as_dict(), "rank": 4}),),
        learning_rate=0.01,
    )
    stored = adapter_tensors(inject(tiny_base, wide, tiny_shape, 1), tiny_shape.head_paths)
    model = inject(tiny_base, tiny.configuration("lora"), tiny_shape, 1)
    with pytest.raises(ValueError, match=r"has shape \(4, 16\), expected \(2, 16\)"):
        fill_adapter(model, tiny_shape.head_paths, stored)
