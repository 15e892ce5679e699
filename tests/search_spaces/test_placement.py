"""Placements as a space file writes them."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest

from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.search_spaces.placement import KINDS, LayerDomain, named_layers
from autopeft.search_spaces.space import load_space
from tests.search_spaces.rich_shapes import (
    alternating_shape,
    encoder_decoder_shape,
    rich_bert_shape,
)

SHAPE = rich_bert_shape(6, 48, 96, 4)


@pytest.mark.parametrize(
    ("given", "name", "layers"),
    [
        ({"layers": [3, 0]}, "layers [3, 0]", (0, 3)),
        ({"layers": [-1, 0]}, "layers [-1, 0]", (0, 5)),
        ({"layers": 2}, "layers 2", (2,)),
        ({"pattern": "every 2"}, "pattern every 2", (0, 2, 4)),
        ({"pattern": "every 2 from 1"}, "pattern every 2 from 1", (1, 3, 5)),
        ({"pattern": "every 9"}, "pattern every 9", (0,)),
        ({"pattern": "110"}, "pattern 110", (0, 1, 3, 4)),
        ({"regex": r"layer\.(0|5)\."}, r"regex layer\.(0|5)\.", (0, 5)),
        ({"regex": r"layer\.4\..*query"}, r"regex layer\.4\..*query", (4,)),
        ("encoder", "encoder", (0, 1, 2, 3, 4, 5)),
        ({"stack": "encoder", "layers": [1]}, "encoder layers [1]", (1,)),
    ],
)
def test_sets_of_layers(given: Any, name: str, layers: tuple[int, ...]) -> None:
    assert named_layers(SHAPE, given) == (name, layers)


@pytest.mark.parametrize(
    ("given", "layers"),
    [
        ("decoder", (3, 4, 5)),
        ({"stack": "decoder", "layers": [0, -1]}, (3, 5)),
        ({"stack": "decoder", "pattern": "every 2"}, (3, 5)),
        ({"regex": r"decoder\.block\.0"}, (3,)),
        ({"regex": r"block\.0"}, (0, 3)),
        ({"regex": "cross_q"}, (3, 4, 5)),
    ],
)
def test_stacks_count_their_own_layers(given: Any, layers: tuple[int, ...]) -> None:
    assert named_layers(encoder_decoder_shape(), given)[1] == layers


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"regex": "nothing"}, "regex nothing: none of the 6 layers"),
        ({"pattern": "every 2 from 9"}, "none of the 6 layers"),
        ("decoder", "'decoder' is unknown; "),
        ({"layers": [6]}, "6 is none of the 6 layers"),
    ],
)
def test_what_the_model_lacks(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        named_layers(SHAPE, given)


class TestDomain:
    def test_named_sets_are_members(self) -> None:
        domain = LayerDomain(6, ("all",), {"ends": (0, 5), "middle": (2, 3)})
        assert domain.allowed == ((0, 1, 2, 3, 4, 5), (0, 5), (2, 3))
        assert domain.describe() == "all layers, ends, middle"
        points = np.random.default_rng(0).random((300, domain.num_coordinates)).tolist()
        assert {domain.draw(u) for u in points} == set(domain.allowed)
        assert [domain.kind_of(layers) for layers in domain.allowed] == ["all", "ends", "middle"]

    def test_layers_that_come_together_share_a_flag(self) -> None:
        domain = LayerDomain(6, ("all",), {"ends": (0, 5), "middle": (2, 3)})
        assert domain.columns == ("layer:0+5", "layer:1+4", "layer:2+3")

    @pytest.mark.parametrize(
        ("kinds", "columns"),
        [
            (("last",), ("layers:first",)),
            (("all", "last"), ("layers:first",)),
            (("range",), ("layers:first", "layers:last")),
        ],
    )
    def test_contiguous_sets_are_their_ends(self, kinds: Any, columns: tuple[str, ...]) -> None:
        domain = LayerDomain(32, kinds)
        assert domain.columns == columns
        assert domain.encode(tuple(range(31, 32)))[0] == 1.0
        assert domain.encode(tuple(range(32)))[0] == 0.0

    @pytest.mark.parametrize(
        "domain",
        [
            LayerDomain(6, ("all", "last"), {"ends": (0, 5)}),
            LayerDomain(6, ("free",), {"ends": (0, 5)}),
            LayerDomain(6, (), {"ends": (0, 5), "first": (0,)}),
            LayerDomain(6, (), {"ends": (0, 5)}),
            LayerDomain(6, KINDS, {"ends": (0, 5)}),
        ],
        ids=["structured", "free", "named", "one", "every-kind"],
    )
    def test_draws_and_codes_with_named_sets(self, domain: LayerDomain) -> None:
        points = np.random.default_rng(0).random((200, max(domain.num_coordinates, 1))).tolist()
        for u in points:
            layers = domain.draw(u)
            assert layers in domain
            assert domain.decode(domain.encode(layers)) == layers
        assert (0, 5) in {domain.draw(u) for u in points}


class TestSharedLayers:
    SPEC: ClassVar[dict[str, Any]] = {
        "combine": "any",
        "layers": "shared",
        "methods": ["lora", "ia3", "ssf", "prefix"],
    }

    def test_every_member_has_one_set_of_layers(self) -> None:
        space = load_space(self.SPEC, SHAPE)
        generator = np.random.default_rng(0)
        members = space.sample(200, generator)
        members += [space.mutate(member, generator) for member in members]
        several = [member for member in members if len(member.modules) > 1]
        assert len(several) > 100
        assert all(len({m.layers for m in member.modules}) == 1 for member in several)
        assert len({member.modules[0].layers for member in several}) > 20

    def test_one_flag_for_each_layer(self) -> None:
        names = load_space(self.SPEC, SHAPE).dimension_names
        assert [name for name in names if "layer" in name] == [f"layer:{n}" for n in range(6)]

    def test_other_layers_are_no_member(self) -> None:
        space = load_space({**self.SPEC, "methods": ["lora", "ia3"]}, SHAPE)
        lora, ia3 = (
            next(
                p.configuration.modules[0]
                for p in space.portfolio()
                if p.configuration.methods == (name,)
            )
            for name in ("lora", "ia3")
        )
        rate = space.learning_rates(("ia3", "lora")).default
        moved = Module(method=ia3.method, layers=(0,), settings=ia3.settings)
        here = Configuration(modules=(lora, ia3), learning_rate=rate)
        there = Configuration(modules=(lora, moved), learning_rate=rate)
        assert (lora.layers == ia3.layers) == (here in space)
        assert space.explain(there) == [
            "the methods of this space stand on the same layers, these do not"
        ]

    def test_a_method_without_a_site_there_is_left_out(self) -> None:
        spec = {
            "combine": "all",
            "layers": "shared",
            "placement": [{"layers": [0, 1]}, {"layers": [1, 3]}],
            "methods": {"lora": {"sites": "q"}, "ia3": {"sites": "ffn_in"}},
        }
        space = load_space({**spec, "combine": "any"}, alternating_shape())
        members = space.sample(300, np.random.default_rng(0))
        # Layers 1 and 3 have no ``q``: LoRA stands on layer 0, or there is none.
        placed = {(m.method, m.layers) for member in members for m in member.modules}
        assert placed == {("lora", (0,)), ("ia3", (0, 1)), ("ia3", (1, 3))}
        together = [member for member in members if len(member.modules) == 2]
        assert {member.modules[0].layers for member in together} == {(0, 1)}
