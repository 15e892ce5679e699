"""Rules a job can switch on: where the trained adapter is to run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autopeft.errors import InvalidSpaceError
from autopeft.search_spaces.deploy import DEPLOYS, VLLM_MAX_RANKS, deployable
from autopeft.search_spaces.method import METHODS, Deploy, get_method
from autopeft.search_spaces.space import SearchSpace, load_space
from tests.search_spaces.rich_shapes import alternating_shape, rich_bert_shape
from tests.search_spaces.shapes import llama_shape

ENCODER = rich_bert_shape(4, 128, 256, 4)
DECODER = replace(
    llama_shape(), task="causal-lm", head_paths=(), num_head_parameters=0, stacks=(("decoder", 3),)
)


def everything(deploy: Deploy, shape: Any = ENCODER) -> SearchSpace:
    return load_space({"deploy": deploy, "methods": "all"}, shape)


@pytest.mark.parametrize("deploy", DEPLOYS)
def test_one_adapter_whatever_the_space_says(deploy: Deploy) -> None:
    space = load_space({"preset": "mixed", "deploy": deploy}, DECODER)
    members = space.sample(50, np.random.default_rng(0))
    assert {len(member.modules) for member in members} == {1}


def test_merged_holds_what_merges() -> None:
    space = everything("merged")
    for member in space.sample(300, np.random.default_rng(0)):
        (module,) = member.modules
        assert get_method(module.method).can_merge(ENCODER, module), member
    assert {"lora", "ia3"} <= set(space.methods)
    assert "serial-adapter" not in space.methods
    assert "prefix left out: it cannot be merged into the base weights" in space.notes


def test_merged_drops_values_that_do_not_merge() -> None:
    """SSF's shift needs a bias to go into: of these sites only some have one."""
    sites = tuple(
        replace(site, has_bias=site.site in ("q", "v")) if site.site != "q" else site
        for site in ENCODER.sites
    )
    shape = replace(ENCODER, sites=sites, norms=())
    space = load_space({"deploy": "merged", "methods": ["ssf"]}, shape)
    assert space.parts["ssf"].domains["sites"].describe() == "any of q, v"
    assert space.notes == ("ssf: sites only q, v (deploy: merged)",)


def test_peft_holds_what_peft_saves() -> None:
    space = everything("peft")
    assert {get_method(name).saved_as for name in space.methods} == {"peft"}
    assert "serial-adapter left out: PEFT alone cannot load it" in space.notes


class TestVllm:
    def test_is_lora_of_an_allowed_rank(self) -> None:
        space = everything("vllm", DECODER)
        assert "lora" in space.methods
        assert {METHODS.get(name)().family for name in space.methods} == {"low-rank"}
        for member in space.sample(200, np.random.default_rng(0)):
            settings = member.modules[0].as_dict()
            assert settings["rank"] in VLLM_MAX_RANKS
            assert not settings.get("dora", False)

    def test_what_was_cut_is_said(self) -> None:
        space = load_space({"preset": "lora", "deploy": "vllm"}, DECODER)
        assert space.notes == ("lora: rank only 1, 8, 16; dora only false (deploy: vllm)",)
        assert space.parts["lora"].domains["rank"].describe() == "1, 8, 16"

    @pytest.mark.parametrize(
        ("shape", "reason"),
        [
            (ENCODER, "vLLM serves an adapter without a task head, not for classification"),
            (
                replace(DECODER, sites=tuple(replace(s, kind="conv1d") for s in DECODER.sites)),
                "vLLM takes LoRA on linear layers, llama has conv1d",
            ),
        ],
    )
    def test_where_there_is_none(self, shape: Any, reason: str) -> None:
        with pytest.raises(InvalidSpaceError, match=reason):
            load_space({"deploy": "vllm", "methods": ["lora"]}, shape)

    def test_leaves_routers_alone(self) -> None:
        shape = alternating_shape()
        router = replace(shape.sites[0], site="router", path="model.layers.{layer}.router")
        shape = replace(shape, sites=(*shape.sites, router))
        dimensions, _ = deployable(get_method("lora"), shape, "vllm")
        (sites,) = (each for each in dimensions if each.name == "sites")
        assert sites.values == ("q", "v", "ffn_in", "mixer_in", "mixer_out")

    @pytest.mark.parametrize(
        ("settings", "problem"),
        [
            ({"rank": [4, 8]}, "methods.lora.rank: 4 is none of 1, 8, 16"),
            ({"dora": True}, "methods.lora.dora: True is none of false"),
        ],
    )
    def test_what_the_user_asks_for_beside_it(self, settings: dict[str, Any], problem: str) -> None:
        with pytest.raises(InvalidSpaceError, match=problem):
            load_space({"deploy": "vllm", "methods": {"lora": settings}}, DECODER)

    def test_a_method_that_was_named_is_a_problem(self) -> None:
        with pytest.raises(InvalidSpaceError, match="ia3 left out: vLLM loads LoRA only"):
            load_space({"deploy": "vllm", "methods": ["lora", "ia3"]}, DECODER)


@pytest.mark.parametrize("deploy", DEPLOYS)
def test_every_method_can_or_says_why(deploy: Deploy) -> None:
    shape = DECODER if deploy == "vllm" else ENCODER
    usable = {name for name in METHODS.names() if get_method(name).unavailable(shape) is None}
    space = everything(deploy, shape)
    left_out = {note.split(" left out: ")[0] for note in space.notes if " left out: " in note}
    assert set(space.methods) | left_out == set(METHODS.names())
    assert set(space.methods) <= usable
    members = space.sample(100, np.random.default_rng(0))
    assert space.decode(space.encode(members)) == members
