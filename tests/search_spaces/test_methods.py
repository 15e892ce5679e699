"""Every method against the real thing: what PEFT builds from it, counted and named."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from peft import get_peft_config, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.domains import domain_of
from autopeft.search_spaces.method import METHODS, get_method
from autopeft.search_spaces.space import load_space
from tests.search_spaces.shapes import TINY_WIDTH, bert_model, bert_shape, llama_model, llama_shape

METHOD_NAMES = ("beft", "ia3", "lora", "prefix")


@pytest.fixture(scope="module")
def bert() -> torch.nn.Module:
    return bert_model()


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.arange(3, 15).reshape(2, 6)


def drawn(method: str, shape: ModelShape, seed: int) -> Module:
    space = load_space({"methods": [method]}, shape)
    return space.sample(1, np.random.default_rng(seed))[0].modules[0]


def built(model: Any, shape: ModelShape, module: Module) -> Any:
    """Return what PEFT makes of a module; of a copy, so that the model can be used again."""
    arguments = dict(get_method(module.method).peft_config(shape, module))
    config = get_peft_config({**arguments, "task_type": "SEQ_CLS"})
    return get_peft_model(copy.deepcopy(model), config)


def adapted_names(model: Any) -> set[str]:
    """Return the names of the linear layers that PEFT wrapped."""
    prefix = "base_model.model."
    return {
        name.removeprefix(prefix)
        for name, module in model.named_modules()
        if isinstance(module, BaseTunerLayer)
    }


def expected_names(shape: ModelShape, module: Module) -> set[str]:
    if module.method == "prefix":
        return set()
    sites = module["sites"]
    assert isinstance(sites, tuple)
    return {
        shape.site(site).path.replace("{layer}", str(layer))
        for site in sites
        for layer in module.layers
    }


def test_methods_are_registered() -> None:
    assert set(METHOD_NAMES) <= set(METHODS.names())


class TestEveryMethod:
    """The contract of ``Method``."""

    @pytest.mark.parametrize("method", METHOD_NAMES)
    def test_declares_who_it_is(self, method: str) -> None:
        found = get_method(method)
        assert found.name == method
        assert found.title
        assert found.family
        assert re.fullmatch(r"arXiv \d{4}\.\d{4,5}", found.paper)
        rates = found.learning_rate
        assert 0 < rates.low < rates.default < rates.high

    @pytest.mark.parametrize("method", METHOD_NAMES)
    @pytest.mark.parametrize("shape", [bert_shape(), bert_shape(6, 384, 1536, 12), llama_shape()])
    def test_defaults_are_members(self, method: str, shape: ModelShape) -> None:
        found = get_method(method)
        if found.unavailable(shape):
            pytest.skip(f"{method} is not offered on {shape.name}")
        for dimension in found.dimensions(shape):
            domain = domain_of(dimension)
            assert dimension.default in domain
            assert domain.default == dimension.default

    @pytest.mark.parametrize("seed", range(8))
    @pytest.mark.parametrize("method", METHOD_NAMES)
    def test_count_is_what_peft_reports(
        self, method: str, seed: int, bert: torch.nn.Module
    ) -> None:
        shape = bert_shape()
        module = drawn(method, shape, seed)
        trainable, _ = built(bert, shape, module).get_nb_trainable_parameters()
        counted = get_method(method).num_parameters(shape, module)
        assert trainable == counted + shape.num_head_parameters

    @pytest.mark.parametrize("seed", range(8))
    @pytest.mark.parametrize("method", METHOD_NAMES)
    def test_adapts_exactly_what_it_names(
        self, method: str, seed: int, bert: torch.nn.Module
    ) -> None:
        shape = bert_shape()
        module = drawn(method, shape, seed)
        assert adapted_names(built(bert, shape, module)) == expected_names(shape, module)

    @pytest.mark.parametrize("method", ["lora", "ia3", "prefix"])
    def test_count_under_grouped_query_attention(self, method: str) -> None:
        shape = llama_shape()
        module = drawn(method, shape, 0)
        model = built(llama_model(), shape, module)
        trainable, _ = model.get_nb_trainable_parameters()
        counted = get_method(method).num_parameters(shape, module)
        assert trainable == counted + shape.num_head_parameters
        assert adapted_names(model) == expected_names(shape, module)

    @pytest.mark.parametrize("method", METHOD_NAMES)
    def test_gradient_reaches_what_is_trained(
        self, method: str, bert: torch.nn.Module, tokens: torch.Tensor
    ) -> None:
        """LoRA's A starts without a gradient because B is 0; everything else has one."""
        shape = bert_shape()
        model = built(bert, shape, drawn(method, shape, 1))
        model(input_ids=tokens, labels=torch.tensor([0, 2])).loss.backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora_A" not in name:
                assert parameter.grad is not None, name
                assert parameter.grad.abs().max() > 0, name


class TestLora:
    def settings(self, **changed: Any) -> Module:
        plain = {"rank": 4, "alpha_ratio": 1.0, "sites": ("q", "v"), "dora": False, "rslora": False}
        return Module.of("lora", (0, 2), **{**plain, **changed})

    def test_count_by_hand(self) -> None:
        found = get_method("lora")
        shape = bert_shape()
        # 2 layers, 2 sites of 32 -> 32, rank 4.
        assert found.num_parameters(shape, self.settings()) == 2 * 2 * 4 * 64
        assert found.num_parameters(shape, self.settings(dora=True)) == 2 * 2 * (4 * 64 + 32)

    @pytest.mark.parametrize(
        ("rank", "ratio", "plain"), [(1, 2.0, 2.0), (4, 0.5, 1.0), (16, 1.0, 4.0), (64, 0.5, 4.0)]
    )
    def test_rslora_that_scales_like_plain_lora_is_plain_lora(
        self, rank: int, ratio: float, plain: float
    ) -> None:
        settings = self.settings(rank=rank, alpha_ratio=ratio, rslora=True).as_dict()
        same = get_method("lora").canonical(settings)
        assert same == {**settings, "alpha_ratio": plain, "rslora": False}
        assert get_method("lora").canonical(same) == same

    @pytest.mark.parametrize(("rank", "ratio"), [(2, 1.0), (8, 0.5), (4, 4.0)])
    def test_rslora_of_its_own_stays(self, rank: int, ratio: float) -> None:
        settings = self.settings(rank=rank, alpha_ratio=ratio, rslora=True).as_dict()
        assert get_method("lora").canonical(settings) == settings

    @pytest.mark.parametrize(
        ("changed", "scaling"),
        [
            ({"rank": 8, "alpha_ratio": 0.5}, 0.5),
            ({"rank": 1, "alpha_ratio": 0.5}, 0.5),
            ({"rank": 4, "alpha_ratio": 0.5, "rslora": True}, 1.0),
            ({"rank": 16, "alpha_ratio": 2.0, "rslora": True}, 8.0),
        ],
    )
    def test_scaling_that_peft_applies(
        self, changed: dict[str, Any], scaling: float, bert: torch.nn.Module
    ) -> None:
        model = built(bert, bert_shape(), self.settings(**changed))
        found = [m.scaling["default"] for m in model.modules() if hasattr(m, "lora_A")]
        assert found == [scaling] * 4

    def test_ranks_end_at_the_width(self) -> None:
        rank = get_method("lora").dimensions(bert_shape(width=32, inner=48))[0]
        assert rank.values == (1, 2, 4, 8, 16, 32)
        rank = get_method("lora").dimensions(bert_shape(4, 4, 8, 1))[0]
        assert rank.values == (1, 2, 4)
        assert rank.default == 4


class TestSitesLeftOut:
    """IA3 has no ``q`` and BEFT no ``k``: what the models themselves say about it."""

    @pytest.fixture
    def model(self, bert: torch.nn.Module) -> Any:
        """Return a model in which attention is far from uniform, in float64."""
        model: Any = copy.deepcopy(bert).double()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.bert.encoder.parameters():
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
        return model

    def linear(self, model: Any, name: str) -> Any:
        return getattr(model.bert.encoder.layer[1].attention.self, name)

    def shifted(self, model: Any, name: str, tokens: torch.Tensor) -> torch.Tensor:
        changed = copy.deepcopy(model)
        with torch.no_grad():
            self.linear(changed, name).bias += torch.linspace(-1, 1, TINY_WIDTH)
        logits: torch.Tensor = changed(input_ids=tokens).logits
        return logits

    def scaled(self, model: Any, name: str, tokens: torch.Tensor) -> torch.Tensor:
        changed = copy.deepcopy(model)
        scale = torch.linspace(0.5, 2.0, TINY_WIDTH, dtype=torch.float64)
        with torch.no_grad():
            self.linear(changed, name).weight *= scale[:, None]
            self.linear(changed, name).bias *= scale
        logits: torch.Tensor = changed(input_ids=tokens).logits
        return logits

    def test_an_offset_of_the_keys_changes_nothing(self, model: Any, tokens: torch.Tensor) -> None:
        before = model(input_ids=tokens).logits
        assert torch.allclose(self.shifted(model, "key", tokens), before, atol=1e-10)
        assert not torch.allclose(self.shifted(model, "query", tokens), before, atol=1e-6)

    def test_scaling_queries_is_scaling_keys(self, model: Any, tokens: torch.Tensor) -> None:
        before = model(input_ids=tokens).logits
        queries = self.scaled(model, "query", tokens)
        assert torch.allclose(queries, self.scaled(model, "key", tokens), atol=1e-10)
        assert not torch.allclose(queries, before, atol=1e-6)


class TestAvailability:
    def test_bias_only_needs_biases(self) -> None:
        reason = get_method("beft").unavailable(llama_shape())
        assert reason == "the linear layers of llama have no biases"

    def test_prefix_needs_past_key_values(self) -> None:
        reason = get_method("prefix").unavailable(bert_shape(model_type="distilbert"))
        assert reason == "distilbert of transformers takes no past_key_values"

    def test_all_methods_are_there_on_bert(self) -> None:
        assert [get_method(name).unavailable(bert_shape()) for name in METHOD_NAMES] == [None] * 4


@pytest.mark.parametrize(("free", "longest"), [(None, 64), (100, 64), (20, 16), (0, None)])
def test_prefix_is_no_longer_than_the_positions_left(free: int | None, longest: int | None) -> None:
    shape = replace(bert_shape(), num_free_positions=free)
    space = load_space("default", shape)

    if longest is None:
        assert "prefix" not in space.methods
        assert any("positions" in note for note in space.notes)
    else:
        drawn = space.sample(400, np.random.default_rng(0))
        lengths = {c.modules[0]["prefix_length"] for c in drawn if c.methods == ("prefix",)}
        assert max(map(int, map(str, lengths))) == longest
