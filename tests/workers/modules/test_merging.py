from __future__ import annotations

import copy

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from autopeft.search_spaces.configuration import Configuration
from autopeft.workers.injection import inject
from autopeft.workers.modules import merge_parts
from tests.workers import families
from tests.workers.modules.building import base_of, draw, injected, module_of, run, shape_of

TOGETHER = [
    ("bert", ("lora",)),
    ("bert", ("ssf",)),
    ("bert", ("lora", "ssf")),
    ("bert", ("beft", "lora", "ssf")),
    ("bert", ("ia3", "lora", "ssf")),
    ("gpt2", ("lora", "ssf")),
]


@pytest.mark.parametrize(("family", "methods"), TOGETHER)
def test_methods_are_merged_from_the_inside_out(family: str, methods: tuple[str, ...]) -> None:
    model = injected(family, *(module_of(method, shape_of(family)) for method in methods))
    expected = run(model, family)

    merged = merge_parts(model)

    assert type(merged) is type(base_of(family))
    assert not any(isinstance(module, BaseTunerLayer) for module in merged.modules())
    assert not hasattr(merged, "peft_config")
    assert merged.state_dict().keys() == base_of(family).state_dict().keys()
    torch.testing.assert_close(run(merged, family), expected, rtol=1e-4, atol=1e-5)


def test_the_frozen_base_is_not_written_to() -> None:
    base = families.build("bert").requires_grad_(False)
    before = copy.deepcopy(base.state_dict())
    modules = tuple(module_of(method, shape_of("bert")) for method in ("lora", "ssf"))
    configuration = Configuration(modules=modules, learning_rate=1)

    merge_parts(draw(inject(base, configuration, shape_of("bert"))))

    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())


@pytest.mark.parametrize("method", ["serial-adapter", "layer-prefix"])
def test_what_acts_between_layers_is_refused(method: str) -> None:
    model = injected(
        "bert", module_of("lora", shape_of("bert")), module_of(method, shape_of("bert"))
    )
    with pytest.raises(ValueError, match="acts between layers and cannot be merged"):
        merge_parts(model)


def test_learned_prompts_are_refused() -> None:
    model = injected("bert", module_of("prefix", shape_of("bert")))
    with pytest.raises(ValueError, match="learned prompts cannot be merged"):
        merge_parts(model)
