"""The same space in ConfigSpace's words."""

from __future__ import annotations

from typing import Any

import ConfigSpace
import numpy as np
import pytest

from autopeft.search_spaces.config_space import ConfigSpaceView
from autopeft.search_spaces.space import load_space, lora_sweep_space, preset_names
from tests.search_spaces.rich_shapes import encoder_decoder_shape, rich_bert_shape

SHAPE = rich_bert_shape()
VIEWS = {
    name: ConfigSpaceView(load_space(name, SHAPE))
    for name in preset_names()
    if name != "everything"  # ConfigSpace takes seconds to build it: see the slow test below
} | {
    "shared": ConfigSpaceView(
        load_space(
            {
                "combine": "any",
                "layers": "shared",
                "placement": ["all", "last", "encoder", {"layers": [0, 3]}],
                "methods": ["lora", "ia3"],
            },
            SHAPE,
        )
    ),
    "cross": ConfigSpaceView(
        load_space({"combine": "any", "methods": ["lora", "ia3"]}, encoder_decoder_shape())
    ),
    "sweep": ConfigSpaceView(lora_sweep_space(SHAPE)),
    "training": ConfigSpaceView(
        load_space(
            {
                "preset": "default",
                "training": {
                    "gradient_checkpointing": [True, False],
                    "batch_size": [8, 16, 48],
                    "precision": "bfloat16",
                },
            },
            SHAPE,
        )
    ),
    "listed": ConfigSpaceView(
        load_space(
            {"methods": {"lora": {"sites": [["q", "v"], ["q"]], "placement": ["last", "range"]}}},
            SHAPE,
        )
    ),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
class TestEveryView:
    def test_what_it_samples_is_a_member(self, view: ConfigSpaceView) -> None:
        view.config_space.seed(0)
        drawn = [view.configuration(dict(c)) for c in view.config_space.sample_configuration(100)]
        assert [view.space.explain(member) for member in drawn] == [[]] * 100

    def test_members_come_back(self, view: ConfigSpaceView) -> None:
        members = view.space.sample(100, np.random.default_rng(0))
        written = [view.values(member) for member in members]
        legal = [ConfigSpace.Configuration(view.config_space, values=v) for v in written]
        # The position of a rate is a float; the rate itself is kept to six digits.
        assert [view.configuration(dict(each)) for each in legal] == members

    def test_default_is_a_member(self, view: ConfigSpaceView) -> None:
        default = dict(view.config_space.get_default_configuration())
        assert view.configuration(default) in view.space


@pytest.mark.parametrize(
    ("placement", "layers"),
    [
        ({"placement": "last", "last": 2}, (10, 11)),
        ({"placement": "range", "from": 11, "to": 10}, (10, 11)),
        ({"placement": "range", "from": 0, "to": 11}, tuple(range(12))),
        ({"placement": "all"}, tuple(range(12))),
    ],
)
def test_names_of_the_same_layers_are_one(
    placement: dict[str, Any], layers: tuple[int, ...]
) -> None:
    view = VIEWS["default"]
    values = {
        "method": "ia3",
        "learning_rate": 0.5,
        **{f"ia3:{name}": value for name, value in placement.items()},
        **{f"ia3:sites:{s}": True for s in ("k", "v", "attention_output", "ffn_in", "ffn_out")},
    }
    found = view.configuration(values)
    assert found.modules[0].layers == layers
    assert found in view.space


def test_only_the_chosen_method_is_active() -> None:
    view = VIEWS["default"]
    view.config_space.seed(1)
    for drawn in view.config_space.sample_configuration(50):
        methods = {name.split(":")[0] for name in dict(drawn) if ":" in name}
        assert methods == {drawn["method"]}


def test_no_method_becomes_one() -> None:
    view = VIEWS["mixed"]
    off = {f"use:{name}": False for name in view.space.methods}
    assert len(view.configuration({**off, "learning_rate": 0.5}).methods) == 1


@pytest.mark.slow
def test_every_method_at_once() -> None:
    view = ConfigSpaceView(load_space("everything", SHAPE))
    view.config_space.seed(0)
    drawn = [view.configuration(dict(c)) for c in view.config_space.sample_configuration(50)]
    assert all(member in view.space for member in drawn)
    members = view.space.sample(50, np.random.default_rng(0))
    assert [view.configuration(view.values(member)) for member in members] == members
