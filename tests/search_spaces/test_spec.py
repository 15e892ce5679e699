"""Space files: presets, restrictions, and what is said about mistakes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autopeft.errors import InvalidSpaceError
from autopeft.search_spaces.space import check_space, load_space, preset_names
from autopeft.search_spaces.space_files import preset_description, preset_text
from tests.search_spaces.shapes import bert_shape, llama_shape

SHAPE = bert_shape(12, 768, 3072, 12)


def lora(**settings: Any) -> dict[str, Any]:
    return {"methods": {"lora": settings}}


def test_presets() -> None:
    assert preset_names() == ("default", "lora", "mixed")


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_right_and_says_what_it_is(name: str) -> None:
    assert check_space(name) == []
    assert preset_description(name)
    assert load_space(name, SHAPE).name == name


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_can_be_copied_to_a_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(preset_text(name), encoding="utf-8")
    mine = load_space("mine.yaml", SHAPE, base=tmp_path)
    preset = load_space(name, SHAPE)
    assert mine.name == "mine"
    assert mine.dimension_names == preset.dimension_names
    assert check_space(Path("mine.yaml"), base=tmp_path) == []


@pytest.mark.parametrize("methods", [["lora", "ia3"], {"lora": None, "ia3": {}}])
def test_methods_as_list_or_mapping(methods: Any) -> None:
    assert load_space({"methods": methods}, SHAPE).methods == ("ia3", "lora")


@pytest.mark.parametrize(
    ("settings", "name", "described"),
    [
        ({"rank": [16, 4]}, "rank", "4, 16"),
        ({"rank": [4, 4]}, "rank", "4"),
        ({"alpha_ratio": [1, 2]}, "alpha_ratio", "1, 2"),
        ({"dora": False}, "dora", "off"),
        ({"sites": ["v", "q"]}, "sites", "any of q, v"),
        ({"sites": "q"}, "sites", "q"),
        ({"sites": "all"}, "sites", "q+k+v+attention_output+ffn_in+ffn_out"),
        ({"sites": [["v", "q"], ["q"]]}, "sites", "q+v | q"),
    ],
)
def test_restricting_a_dimension(settings: dict[str, Any], name: str, described: str) -> None:
    space = load_space(lora(**settings), SHAPE)
    assert space.parts["lora"].domains[name].describe() == described
    assert check_space(lora(**settings)) == []


def test_values_keep_the_type_that_was_declared() -> None:
    space = load_space(lora(alpha_ratio=[1, 2]), SHAPE)
    drawn = space.sample(20, np.random.default_rng(0))
    assert {type(member.modules[0]["alpha_ratio"]) for member in drawn} == {float}


@pytest.mark.parametrize("sites", [["q", "v"], [["q", "v"]]])
def test_drawn_sites_stay_inside(sites: Any) -> None:
    space = load_space(lora(sites=sites), SHAPE)
    drawn = {member.modules[0]["sites"] for member in space.sample(60, np.random.default_rng(0))}
    expected = {("q", "v")} if isinstance(sites[0], list) else {("q",), ("v",), ("q", "v")}
    assert drawn == expected


@pytest.mark.parametrize(
    ("given", "low", "default", "high"),
    [
        (0.001, 0.001, 0.001, 0.001),
        ([1e-4, 1e-3], 1e-4, 1e-3, 1e-3),
        (["1e-4", "5e-2"], 1e-4, 2e-3, 5e-2),
        ({"low": 1e-4}, 1e-4, 2e-3, 1e-2),
        ({"low": 1e-4, "high": 1e-2, "default": 5e-4}, 1e-4, 5e-4, 1e-2),
    ],
)
def test_learning_rates(given: Any, low: float, default: float, high: float) -> None:
    rates = load_space(lora(learning_rate=given), SHAPE).parts["lora"].learning_rates
    assert (rates.low, rates.default, rates.high) == (low, default, high)


@pytest.mark.parametrize(
    ("placement", "layers"),
    [("all", {12}), (["last"], set(range(1, 13))), (["all", "range"], set(range(1, 13)))],
)
def test_placement(placement: Any, layers: set[int]) -> None:
    space = load_space(lora(placement=placement), SHAPE)
    drawn = space.sample(300, np.random.default_rng(0))
    assert {len(member.modules[0].layers) for member in drawn} == layers


PROBLEMS: list[tuple[Any, str]] = [
    ({"methods": {"lora": {"rnak": [4]}}}, "methods.lora.rnak: unknown key; did you mean 'rank'?"),
    ({"methods": {"lroa": {}}}, "methods.lroa: unknown key; did you mean 'lora'?"),
    ({"combin": "any", "methods": ["lora"]}, "combin: unknown key; did you mean 'combine'?"),
    ({}, "methods: expected at least one of beft, ia3, lora, prefix, got None"),
    ({"methods": []}, "methods: expected at least one of beft, ia3, lora, prefix, got {}"),
    ({"methods": 3}, "methods: expected at least one of beft, ia3, lora, prefix, got 3"),
    ({"methods": {"lora": 3}}, "methods.lora: expected its dimensions, got 3"),
    ({"combine": "on", "methods": ["lora"]}, "combine: 'on' is neither 'one' nor 'any'; did you"),
    (lora(rank=[12]), "methods.lora.rank: 12 is none of 1, 2, 4, 8, 16, 32, 64"),
    (lora(rank=True), "methods.lora.rank: True is none of 1, 2, 4, 8, 16, 32, 64"),
    (lora(rank="8"), "methods.lora.rank: '8' is none of 1, 2, 4, 8, 16, 32, 64"),
    (lora(rank=[]), "methods.lora.rank: empty; expected some of 1, 2, 4, 8, 16, 32, 64"),
    (lora(dora="sometimes"), "methods.lora.dora: 'sometimes' is none of false, true"),
    (lora(sites=["qq"]), "methods.lora.sites: 'qq' is unknown; "),
    (lora(sites=["ffn_on"]), "methods.lora.sites: 'ffn_on' is unknown; did you mean 'ffn_"),
    (lora(sites=[]), "methods.lora.sites: empty; expected some of q, k, v, qkv, attention_output"),
    (
        lora(sites=[["q"], []]),
        "methods.lora.sites: empty; expected some of q, k, v, qkv, attention_",
    ),
    (lora(sites=[["q"], "v"]), "methods.lora.sites: ['q'] is none of q, k, v"),
    ({"methods": {"beft": {"sites": ["k"]}}}, "methods.beft.sites: 'k' is unknown; valid: "),
    (lora(placement="lst"), "methods.lora.placement: 'lst' is unknown; did you mean 'last'?"),
    (lora(placement=[]), "methods.lora.placement: empty; expected some of all, last, range, free"),
    (lora(placement=3), "methods.lora.placement: 3 is unknown; valid: all, free, last, range"),
    (
        {"methods": {"prefix": {"placement": "last"}}},
        "methods.prefix.placement: prefix always stands on all layers",
    ),
    (lora(learning_rate="fast"), "methods.lora.learning_rate: expected a number, [low, high] or"),
    (lora(learning_rate=[0.1, 0.2, 0.3]), "methods.lora.learning_rate: expected a number, [low"),
    (lora(learning_rate=[0.1, 0.01]), "methods.lora.learning_rate: low (0.1) is above high (0.01"),
    (lora(learning_rate=0), "each above 0 and at most 1, got 0"),
    (lora(learning_rate=float("nan")), "each above 0 and at most 1, got nan"),
    (lora(learning_rate=True), "each above 0 and at most 1, got True"),
    (lora(learning_rate={"lwo": 1e-3}), "methods.lora.learning_rate.lwo: unknown key; did you"),
    (
        lora(learning_rate={"low": 1e-3, "high": 1e-2, "default": 0.5}),
        "methods.lora.learning_rate.default: 0.5 is not between 0.001 and 0.01",
    ),
]


@pytest.mark.parametrize(("data", "expected"), PROBLEMS)
def test_one_problem(data: Any, expected: str) -> None:
    (problem,) = check_space(data)
    assert expected in problem
    with pytest.raises(InvalidSpaceError) as caught:
        load_space(data, SHAPE)
    assert problem in caught.value.message


def test_all_problems_at_once() -> None:
    data = {
        "combin": "one",
        "methods": {"lora": {"rnak": 1, "rank": 3, "placement": "lst"}, "ai3": {}},
    }
    problems = check_space(data)
    assert len(problems) == 5
    with pytest.raises(InvalidSpaceError, match=r"does not work for tiny-bert") as caught:
        load_space(data, SHAPE)
    assert all(problem in caught.value.message for problem in problems)


class TestFiles:
    def test_relative_to_base(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "mine.yml").write_text("methods: [lora]\n", encoding="utf-8")
        assert load_space("sub/mine.yml", SHAPE, base=tmp_path).methods == ("lora",)
        assert load_space(tmp_path / "sub" / "mine.yml", SHAPE).methods == ("lora",)

    @pytest.mark.parametrize("spec", ["defualt", "Default"])
    def test_nearest_preset(self, spec: str, tmp_path: Path) -> None:
        (problem,) = check_space(spec, base=tmp_path)
        assert problem == f"unknown space '{spec}'; did you mean 'default'?"

    @pytest.mark.parametrize("spec", ["mine.yaml", "sub/mine"])
    def test_no_such_file(self, spec: str, tmp_path: Path) -> None:
        with pytest.raises(InvalidSpaceError, match="does not exist or is no file"):
            load_space(spec, SHAPE, base=tmp_path)

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (b"methods: [lora", "not valid YAML"),
            (
                b"methods: [lora]\nmethods: [ia3]\n",
                "line 2: not valid YAML: the key 'methods' is g",
            ),
            (b"\xff\xfe\x00", "cannot be read"),
            (b"", "expected keys (combine, description, methods), got None"),
            (b"- lora\n", "expected keys (combine, description, methods), got ['lora']"),
            (b"methods: {lora: !!python/object/apply:os.getcwd []}\n", "not valid YAML"),
        ],
    )
    def test_broken_content(self, content: bytes, expected: str, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_bytes(content)
        (problem,) = check_space("mine.yaml", base=tmp_path)
        assert expected in problem
        with pytest.raises(InvalidSpaceError):
            load_space("mine.yaml", SHAPE, base=tmp_path)

    def test_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").mkdir()
        (problem,) = check_space("mine.yaml", base=tmp_path)
        assert "does not exist or is no file" in problem


class TestWhatAModelLacks:
    def test_a_preset_leaves_it_out_and_says_so(self) -> None:
        space = load_space("default", llama_shape())
        assert space.methods == ("ia3", "lora", "prefix")
        assert space.notes == ("beft left out: llama offers no value for its sites",)
        assert space.notes[0] in space.describe()

    def test_a_user_is_told(self) -> None:
        with pytest.raises(InvalidSpaceError, match="beft left out: llama offers no value"):
            load_space({"methods": ["beft", "lora"]}, llama_shape())

    def test_a_rank_above_the_width(self) -> None:
        with pytest.raises(InvalidSpaceError, match=r"methods.lora.rank: 64 is none of .*, 8, 16"):
            load_space(lora(rank=64), llama_shape())

    def test_a_site_that_is_not_there(self) -> None:
        shape = replace(SHAPE, sites=SHAPE.sites[:3])
        assert check_space(lora(sites=["q", "ffn_in"])) == []
        with pytest.raises(InvalidSpaceError, match=r"'ffn_in' is unknown; valid: k, q, v"):
            load_space(lora(sites=["q", "ffn_in"]), shape)
        (member,) = load_space(lora(sites="all"), shape).sample(1, np.random.default_rng(0))
        assert member.modules[0]["sites"] == ("q", "k", "v")
