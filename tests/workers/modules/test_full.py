"""Layers that train in full: biases, normalisations, last layers, halves, embeddings, heads."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import nn
from torch.nn import functional

from autopeft.records import ModelShape
from autopeft.search_spaces.method import get_method
from autopeft.search_spaces.methods._in_full import category_of, numbers_in
from autopeft.workers.injection import known_warnings
from autopeft.workers.modules._framework import parts_of
from autopeft.workers.modules.bias import BiasConfig, BiasPart
from autopeft.workers.modules.embeddings import EmbeddingsConfig, OutputConfig
from autopeft.workers.modules.full import FullPart, LastLayersConfig, NormsConfig
from tests.workers.modules.building import (
    base_of,
    draw,
    injected,
    module_of,
    run,
    shape_of,
)
from tests.workers.modules.parts import IN, OUT, close, inputs, layer_of, part_of


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_linear_layer_in_full_has_the_sum_as_its_weight(kind: str) -> None:
    layer, x = layer_of(kind), inputs(5, IN)
    part = part_of(FullPart, layer, LastLayersConfig())
    weight = (layer.weight.T if kind == "conv1d" else layer.weight) + part.weight

    assert close(part(layer, x), x @ weight.T + layer.bias + part.bias)


def test_normalisation_in_full_has_the_sums_as_weight_and_bias() -> None:
    layer, x = layer_of("norm"), inputs(5, IN)
    part = part_of(FullPart, layer, NormsConfig())
    sums = (layer.weight + part.weight, layer.bias + part.bias)

    assert close(part(layer, x), functional.layer_norm(x, (IN,), *sums))


def test_bias_of_a_normalisation_can_stay() -> None:
    layer, x = layer_of("norm"), inputs(5, IN)
    part = part_of(FullPart, layer, NormsConfig(train_bias=False))

    assert [name for name, _ in part.named_parameters()] == ["weight"]
    expected = functional.layer_norm(x, (IN,), layer.weight + part.weight, layer.bias)
    assert close(part(layer, x), expected)


def test_two_differences_on_one_normalisation_add_up() -> None:
    shape = shape_of("bert")
    model = injected(
        "bert", module_of("norms", shape), module_of("last-layers", shape, num_layers=1)
    )
    layer: Any = model.get_submodule("bert.encoder.layer.1.output.LayerNorm")
    outer, inner = layer, layer.base_layer
    parts = [next(iter(each.parts.values())) for each in (outer, inner)]
    base = layer.get_base_layer()
    x = torch.randn(3, 32)
    weight = base.weight + parts[0].weight + parts[1].weight
    bias = base.bias + parts[0].bias + parts[1].bias

    with torch.no_grad():
        expected = functional.layer_norm(x, (32,), weight, bias, base.eps)
        assert close(layer(x), expected, 1e-5)


@pytest.mark.parametrize("kind", ["linear", "conv1d", "norm"])
def test_bias_adds_its_offset(kind: str) -> None:
    layer, x = layer_of(kind), inputs(5, IN)
    part = part_of(BiasPart, layer, BiasConfig())

    assert len(part.offset) == (IN if kind == "norm" else OUT)
    assert close(part(layer, x), layer(x) + part.offset)


def test_bias_of_a_layer_without_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"some\.layer has no bias to train"):
        part_of(BiasPart, nn.Linear(2, 2, bias=False), BiasConfig())


def test_key_bias_has_no_gradient_by_softmax_invariance() -> None:
    model = injected("bert", module_of("bias", shape_of("bert"), sites=("q", "k"))).double()
    loss: Any = run(model, "bert").square().mean()
    loss.backward()
    found = {
        name: float(parameter.grad.abs().max())
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and "offset" in name
    }

    assert max(size for name, size in found.items() if ".key." in name) < 1e-14
    assert min(size for name, size in found.items() if ".query." in name) > 1e-8


def test_bias_covers_every_bias_inside_the_layers() -> None:
    shape = shape_of("bert")
    layers = base_of("bert").bert.encoder.layer
    biases = [p.numel() for name, p in layers.named_parameters() if name.endswith("bias")]

    assert get_method("bias").num_parameters(shape, module_of("bias", shape)) == sum(biases)


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("family", ["bert", "llama", "mixtral"])
def test_last_layers_train_all_of_them(family: str, num_layers: int) -> None:
    shape, base = shape_of(family), base_of(family)
    stack = base.bert.encoder.layer if family == "bert" else base.model.layers
    module = module_of("last-layers", shape, num_layers=num_layers)
    counted = get_method("last-layers").num_parameters(shape, module)

    assert counted == sum(parameter.numel() for parameter in stack[-num_layers:].parameters())


def test_stacked_experts_have_the_sums_as_their_weights() -> None:
    model = injected("mixtral", module_of("last-layers", shape_of("mixtral"), num_layers=1))
    changed: Any = base_of("mixtral")
    for path, part in parts_of(model, FullPart):
        layer = changed.get_submodule(path)
        for name, difference in part.named_parameters():
            getattr(layer, name).data += difference.data

    with torch.no_grad():
        assert close(run(model, "mixtral"), run(changed, "mixtral"), 1e-4)


def drawn_half(shape: ModelShape, **settings: Any) -> list[str]:
    """Return the paths in a model that half fine-tuning trains."""
    model = injected(shape.name.removeprefix("tiny-"), module_of("half", shape, **settings))
    return [path for path, _ in parts_of(model, FullPart)]


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
@pytest.mark.parametrize("selection", [0, 1, 2, 3])
def test_half_draws_half_of_each_category(family: str, selection: int) -> None:
    shape = shape_of(family)
    drawn = set(drawn_half(shape, selection=selection))
    sites = [site for site in (*shape.sites, *shape.norms) if site.is_in_layers]
    for layer in range(shape.num_layers):
        here = [site for site in sites if layer in site.layers_among([layer])]
        sizes = Counter(category_of(site) for site in here)
        kept = Counter(category_of(site) for site in here if site.path_in(layer) in drawn)
        for category, size in sizes.items():
            assert kept[category] == (size + layer % 2) // 2


def test_halves_differ_between_selections_and_not_between_calls() -> None:
    shape = shape_of("llama")
    halves = {tuple(drawn_half(shape, selection=selection)) for selection in (0, 1, 2, 3)}

    assert len(halves) > 1
    assert drawn_half(shape, selection=1) == drawn_half(shape, selection=1)


def test_numbers_in_counts_weight_and_bias() -> None:
    shape = shape_of("bert")

    assert numbers_in(shape.site("ffn_in")) == 32 * 48 + 48
    assert numbers_in(shape.site("ffn_norm")) == 64
    assert numbers_in(shape.site("ffn_norm"), has_bias=False) == 32


def wrapped(family: str, config: Any) -> Any:
    with known_warnings():
        return draw(get_peft_model(base_of(family), config)).eval()


@pytest.mark.parametrize("family", ["gpt2", "gemma", "t5"])
def test_tied_output_layer_learns_the_matrix_of_the_embedding(family: str) -> None:
    shape = shape_of(family)
    module = module_of("embeddings", shape, output=True)
    config = EmbeddingsConfig(
        target_modules=get_method("embeddings").peft_config(shape, module)["target_modules"],
        output=True,
    )
    model = wrapped(family, config)
    (table,) = [p for name, p in model.named_parameters() if "table" in name]
    changed = base_of(family)
    changed.get_input_embeddings().weight.data += table.data

    with torch.no_grad():
        assert close(run(model, family), run(changed, family), 1e-4)


def test_untied_output_layer_learns_a_matrix_of_its_own() -> None:
    model = wrapped("llama", EmbeddingsConfig(target_modules="model.embed_tokens", output=True))
    tables = {name: p for name, p in model.named_parameters() if "table" in name}
    changed = base_of("llama")
    (inward, outward) = tables.values()
    changed.model.embed_tokens.weight.data += inward.data
    changed.lm_head.weight.data += outward.data

    with torch.no_grad():
        assert close(run(model, "llama"), run(changed, "llama"), 1e-4)


def test_output_layer_of_a_language_model_is_found() -> None:
    config = OutputConfig()
    model = wrapped("gpt2", config)
    (table,) = [p for p in model.parameters() if p.requires_grad]

    assert config.target_modules == "(?:lm_head)"
    assert tuple(table.shape) == (100, 32)


def test_model_without_an_output_layer_is_refused() -> None:
    with known_warnings(), pytest.raises(ValueError, match="has no output layer to train"):
        get_peft_model(base_of("bert"), OutputConfig())
