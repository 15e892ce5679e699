"""The configurations that papers publish are members of the presets named after them."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from transformers import BertConfig, RobertaConfig

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Configuration, Module, Setting
from autopeft.search_spaces.method import get_method
from autopeft.search_spaces.space import SearchSpace, load_space
from autopeft.workers.shapes import shape_from_config

WIDTH, LAYERS = 768, 12
EVERYWHERE = tuple(range(LAYERS))
#: Table 6 of arXiv 2301.12132, without 0: a method of size 0 is left out.
AUTOPEFT = (1, 3, 6, 12, 24, 48, 96, 192, 384, 768)


@functools.cache
def shape_of(name: str) -> ModelShape:
    config: Any = {"bert-base": BertConfig, "roberta-base": RobertaConfig}[name](num_labels=2)
    config._name_or_path = name
    return shape_from_config(config, name, "classification")


@functools.cache
def space_of(preset: str, model: str = "bert-base") -> SearchSpace:
    return load_space(preset, shape_of(model))


def member(space: SearchSpace, *modules: Module) -> int:
    """Return the adapter parameters of a configuration, once it is seen to be in the space."""
    configuration = Configuration(modules=modules, learning_rate=0.002)
    assert space.explain(configuration) == []
    assert configuration in space
    return sum(get_method(m.method).num_parameters(space.shape, m) for m in modules)


@pytest.mark.parametrize("model", ["bert-base", "roberta-base"])
def test_the_mam_adapter_of_he_et_al(model: str) -> None:
    # Section 4.6 of arXiv 2110.04366: prefix 30, parallel adapter of 512 at the FFN, scaling 4.
    count = member(
        space_of("mam", model),
        Module.of("layer-prefix", EVERYWHERE, prefix_length=30, gated=False),
        Module.of(
            "parallel-adapter",
            EVERYWHERE,
            bottleneck=512,
            scaling=4.0,
            activation="relu",
            sites=("ffn_block",),
        ),
    )

    assert count == LAYERS * (2 * 30 * WIDTH + 2 * 512 * WIDTH + 512 + WIDTH)


def test_unipelt_of_mao_et_al() -> None:
    # Appendix of arXiv 2110.07577: rank 8 on q and v, prefix 10, adapter 48, a gate for each.
    count = member(
        space_of("unipelt"),
        Module.of("gated-lora", EVERYWHERE, rank=8, alpha_ratio=2.0, sites=("q", "v")),
        Module.of("layer-prefix", EVERYWHERE, prefix_length=10, gated=True),
        Module.of(
            "serial-adapter",
            EVERYWHERE,
            bottleneck=48,
            activation="relu",
            gated=True,
            sites=("ffn_block",),
        ),
    )
    lora, prefix = 2 * (2 * 8 * WIDTH + WIDTH + 1), 2 * 10 * WIDTH + WIDTH + 1
    adapter = 2 * 48 * WIDTH + 48 + WIDTH + WIDTH + 1

    assert count == LAYERS * (lora + prefix + adapter)


@pytest.mark.parametrize("layers", [(0,), (1, 4, 11), EVERYWHERE], ids=str)
def test_any_mask_of_memcontrol(layers: tuple[int, ...]) -> None:
    space = space_of("memcontrol")
    shape = space.shape
    norms = ("attention_norm", "ffn_norm")
    norm = Module.of("norms", layers, sites=norms, outside=False, train_bias=False)

    assert member(space, norm) == 2 * WIDTH * len(layers)
    assert {*shape.site_names} >= {"q", "k", "v", "attention_output"}
    others = tuple(layer for layer in EVERYWHERE if layer not in layers) or (0,)
    lora = Module.of(
        "lora",
        others,
        rank=8,
        alpha_ratio=2.0,
        dora=False,
        rslora=False,
        sites=("q", "k", "v", "attention_output"),
    )
    expected = 2 * WIDTH * len(layers) + 4 * 2 * 8 * WIDTH * len(others)
    assert member(space, lora, norm) == expected


@pytest.mark.parametrize("size", AUTOPEFT)
@pytest.mark.parametrize("layers", [(3,), (0, 5, 11), EVERYWHERE], ids=str)
def test_the_space_of_autopeft_holds_each_size_and_set_of_layers(
    layers: tuple[int, ...], size: int
) -> None:
    adapter: dict[str, Setting] = {
        "bottleneck": size,
        "activation": "relu",
        "sites": ("ffn_block",),
    }
    count = member(
        space_of("autopeft"),
        Module.of("layer-prefix", layers, prefix_length=size, gated=False),
        Module.of("parallel-adapter", layers, **adapter, scaling=4.0),
        Module.of("serial-adapter", layers, **adapter, gated=False),
    )

    each = 2 * size * WIDTH + size + WIDTH
    assert count == len(layers) * (2 * each + 2 * size * WIDTH)


def test_the_space_of_autopeft_draws_nothing_else() -> None:
    drawn = space_of("autopeft").sample(200, np.random.default_rng(0))
    settings = [module.as_dict() for each in drawn for module in each.modules]

    assert all(len({module.layers for module in each.modules}) == 1 for each in drawn)
    sizes = {found.get("bottleneck", found.get("prefix_length")) for found in settings}
    assert sizes == set(AUTOPEFT)
    assert {found.get("sites", ("ffn_block",)) for found in settings} == {("ffn_block",)}
    assert {found.get("scaling", 4.0) for found in settings} == {4.0}
    assert {found.get("activation", "relu") for found in settings} == {"relu"}


@pytest.mark.parametrize(
    "modules",
    [
        (Module.of("layer-prefix", EVERYWHERE, prefix_length=30, gated=False),),
        (Module.of("layer-prefix", EVERYWHERE, prefix_length=12, gated=True),),
        (
            Module.of("layer-prefix", (0, 1), prefix_length=12, gated=False),
            Module.of(
                "serial-adapter",
                (0, 2),
                bottleneck=12,
                activation="relu",
                gated=False,
                sites=("ffn_block",),
            ),
        ),
    ],
    ids=["other size", "gated", "flags apart"],
)
def test_what_autopeft_has_not(modules: tuple[Module, ...]) -> None:
    assert Configuration(modules=modules, learning_rate=0.002) not in space_of("autopeft")
