"""Space files: presets, restrictions, and what is said about mistakes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autopeft.errors import InvalidSpaceError
from autopeft.search_spaces.method import METHODS, get_method
from autopeft.search_spaces.space import check_space, load_space, preset_names
from autopeft.search_spaces.space_files import SpaceSpec, preset_description, preset_text
from autopeft.search_spaces.spec import parse
from tests.search_spaces.rich_shapes import rich_bert_shape
from tests.search_spaces.shapes import bert_shape, llama_shape

SHAPE = bert_shape(12, 768, 3072, 12)


def lora(**settings: Any) -> dict[str, Any]:
    return {"methods": {"lora": settings}}


def test_presets() -> None:
    assert preset_names() == (
        "autopeft",
        "default",
        "everything",
        "lora",
        "mam",
        "memcontrol",
        "mixed",
        "unipelt",
    )


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_right_and_says_what_it_is(name: str) -> None:
    assert check_space(name) == []
    assert preset_description(name)
    assert load_space(name, rich_bert_shape()).name == name


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_can_be_copied_to_a_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(preset_text(name), encoding="utf-8")
    shape = rich_bert_shape()
    mine = load_space("mine.yaml", shape, base=tmp_path)
    preset = load_space(name, shape)
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


KNOWN = ", ".join(METHODS.names())
PROBLEMS: list[tuple[Any, str]] = [
    ({"methods": {"lora": {"rnak": [4]}}}, "methods.lora.rnak: unknown key; did you mean 'rank'?"),
    ({"methods": {"prefixx": {}}}, "methods.prefixx: unknown key; did you mean 'prefix'?"),
    ({"combin": "any", "methods": ["lora"]}, "combin: unknown key; did you mean 'combine'?"),
    ({}, "methods: expected at least one method, such as lora, got nothing; `autopeft methods`"),
    ({"methods": []}, "methods: expected at least one method, such as lora, got {}"),
    ({"methods": 3}, "methods: expected at least one method, such as lora, got 3"),
    ({"methods": {"lora": 3}}, "methods.lora: expected its dimensions, got 3"),
    (
        {"combine": "on", "methods": ["lora"]},
        "combine: 'on' is neither 'one' nor 'any' nor 'al",
    ),
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
    # What the sites are shows with a model only.
    assert expected.partition(", qkv")[0] in caught.value.message


MORE_PROBLEMS: list[tuple[Any, str]] = [
    ({"layers": "share", "methods": ["lora"]}, "layers: 'share' is neither 'own' nor 'shared'; d"),
    ({"deploy": "vlm", "methods": ["lora"]}, "deploy: 'vlm' is neither 'merged' nor 'peft' nor"),
    ({"deploy": 3, "methods": ["lora"]}, "deploy: 3 is neither 'merged' nor 'peft' nor 'vllm'"),
    ({"max_methods": 0, "methods": ["lora"]}, "max_methods: expected a number from 1, got 0"),
    ({"max_methods": True, "methods": ["lora"]}, "max_methods: expected a number from 1, got Tr"),
    ({"one_per_family": 1, "methods": ["lora"]}, "one_per_family: 1 is neither true nor false"),
    ({"combine": "all", "methods": ["lora", "prefix"]}, "lora and prefix: prefix stands alone"),
    ({"combine": "all", "deploy": "peft", "methods": ["lora", "ia3"]}, "combine: all is several"),
    (lora(placement="decodr"), "methods.lora.placement: 'decodr' is unknown; did you mean 'decode"),
    (lora(placement={"layer": [0]}), "methods.lora.placement: 'layer' is unknown; did you mean 'l"),
    (lora(placement={}), "methods.lora.placement: {} is unknown; valid: all, free, last, range"),
    (lora(placement={"layers": [12]}), "placement: layers: 12 is none of the 12 layers"),
    (lora(placement={"layers": [-13]}), "placement: layers: -13 is none of the 12 layers"),
    (lora(placement={"layers": ["0"]}), "placement: layers: expected numbers of layers, got ['0"),
    (lora(placement={"layers": []}), "placement: layers: expected numbers of layers, got []"),
    (lora(placement={"layers": [True]}), "placement: layers: expected numbers of layers, got [T"),
    (lora(placement={"pattern": "every 0"}), "pattern: expected 'every 2', 'every 2 from 1' or '"),
    (lora(placement={"pattern": "000"}), "pattern: expected 'every 2', 'every 2 from 1' or '110'"),
    (lora(placement={"regex": "("}), "placement: regex: '(' is no regular expression"),
    (lora(placement={"regex": 3}), "placement: regex: 3 is no regular expression"),
    (lora(placement={"layers": [0], "regex": "a"}), "layers and regex are two ways to say it"),
    (lora(rank={"at_width": 0, "values": [1]}), "rank: expected at_width and values above 0"),
    (lora(rank={"at_width": 768, "values": []}), "rank: expected at_width and values above 0"),
    (
        lora(dora={"at_width": 768, "values": [1]}),
        "methods.lora.dora: dora is no number that grows with width",
    ),
    (
        {
            "layers": "shared",
            "methods": {"lora": {"placement": "last"}, "ia3": {"placement": "all"}},
        },
        "layers: shared, but the methods have several placements (all layers | the last k); give",
    ),
    ({"preset": "defualt"}, "unknown preset 'defualt'; did you mean 'default'?"),
    ({"preset": "default", "methods": {"loraa": None}}, "methods.loraa: unknown key; did you me"),
    ({"include": 3}, "include: expected paths of adapter_config.json, got 3"),
    ({"include": "nowhere.json"}, "include: 'nowhere.json' cannot be read"),
]


@pytest.mark.parametrize(("data", "expected"), MORE_PROBLEMS)
def test_one_problem_of_composition_or_placement(data: Any, expected: str) -> None:
    (problem,) = check_space(data)
    assert expected in problem
    with pytest.raises(InvalidSpaceError) as caught:
        load_space(data, replace(SHAPE, stacks=(("encoder", 6), ("decoder", 6))))
    assert expected in caught.value.message


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


class TestOnAPreset:
    def test_takes_its_methods_and_keys(self) -> None:
        space = load_space({"preset": "mixed", "max_methods": 2}, SHAPE)
        assert space.name == "mixed"
        assert space.methods == load_space("mixed", SHAPE).methods
        assert space.combine == "any"
        assert space.method_sets.max_methods == 2

    def test_methods_are_added_and_replaced(self) -> None:
        methods = {"miss": None, "lora": {"rank": 8}}
        space = load_space({"preset": "default", "methods": methods}, SHAPE)
        assert space.methods == ("beft", "ia3", "lora", "miss", "prefix")
        assert space.parts["lora"].domains["rank"].describe() == "8"

    def test_may_still_lack_what_the_user_did_not_name(self) -> None:
        space = load_space({"preset": "default", "methods": ["miss"]}, llama_shape())
        assert "beft" not in space.methods
        with pytest.raises(InvalidSpaceError, match="beft left out"):
            load_space({"preset": "default", "methods": ["beft"]}, llama_shape())

    def test_in_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_text("preset: mixed\ncombine: one\n", encoding="utf-8")
        space = load_space("mine.yaml", SHAPE, base=tmp_path)
        assert (space.name, space.combine) == ("mine", "one")


class TestEveryMethod:
    def test_all_is_what_the_model_can_use(self) -> None:
        space = load_space({"methods": "all"}, SHAPE)
        usable = [name for name in METHODS.names() if get_method(name).unavailable(SHAPE) is None]
        assert space.methods == tuple(usable)
        assert len(space.notes) >= len(METHODS.names()) - len(usable)

    def test_all_others(self) -> None:
        space = load_space({"methods": {"lora": {"rank": 8}, "all": None}}, SHAPE)
        assert space.parts["lora"].domains["rank"].describe() == "8"
        assert "ia3" in space.methods

    def test_a_preset_goes_without_a_method_that_is_not_installed(self) -> None:
        spec = SpaceSpec(name="later", data={"methods": ["lora", "later"]}, is_preset=True)
        parsed = parse(spec, SHAPE)
        assert [part.name for part in parsed.parts] == ["lora"]
        assert parsed.notes == ("later left out: no method of that name is installed",)


class TestDefaultsOfASpace:
    def test_sites_by_group(self) -> None:
        data = {"sites": [["attention"], ["ffn"], ["all"]], "methods": ["lora", "ia3", "prefix"]}
        space = load_space(data, SHAPE)
        sites = space.parts["lora"].domains["sites"]
        assert sites.describe() == (
            "q+k+v+attention_output | ffn_in+ffn_out | q+k+v+attention_output+ffn_in+ffn_out"
        )
        assert sites.columns == ("sites:q+k+v+attention_output", "sites:ffn_in+ffn_out")
        assert "sites" not in space.parts["prefix"].domains

    def test_a_group_without_a_site_is_left_out(self) -> None:
        data = {"sites": [["mixer"], ["all"]], "methods": ["lora"]}
        sites = load_space(data, SHAPE).parts["lora"].domains["sites"]
        assert sites.describe() == "q+k+v+attention_output+ffn_in+ffn_out"

    def test_a_method_may_say_otherwise(self) -> None:
        data = {
            "placement": "last",
            "sites": "q",
            "methods": {"lora": None, "ia3": {"placement": "all", "sites": "v"}, "prefix": None},
        }
        parts = load_space(data, SHAPE).parts
        assert [parts[name].layers.describe() for name in ("lora", "ia3", "prefix")] == [
            "the last k",
            "all layers",
            "all layers",
        ]
        assert parts["lora"].domains["sites"].describe() == "q"
        assert parts["ia3"].domains["sites"].describe() == "v"

    @pytest.mark.parametrize(
        ("width", "expected"), [(768, "4, 16, 64"), (384, "2, 8, 32"), (3072, "16, 64")]
    )
    def test_sizes_follow_the_width(self, width: int, expected: str) -> None:
        shape = bert_shape(2, width, 4 * width, 12)
        space = load_space(lora(rank={"at_width": 768, "values": [4, 16, 64]}), shape)
        assert space.parts["lora"].domains["rank"].describe() == expected


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
            (b"", "expected keys (combine, deploy, description, include, layers, max_methods, "),
            (b"- lora\n", "sites, training), got ['lora']"),
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
        assert space.notes == ("beft left out: the linear layers of llama have no biases",)
        assert space.notes[0] in space.describe()

    def test_a_user_is_told(self) -> None:
        with pytest.raises(InvalidSpaceError, match="beft left out: the linear layers of llama"):
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
