"""The space as proposers, stoppers and the driver use it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.search_spaces.space import SearchSpace, load_space, lora_sweep_space, preset_names
from tests.search_spaces.rich_shapes import (
    alternating_shape,
    encoder_decoder_shape,
    rich_bert_shape,
)
from tests.search_spaces.shapes import bert_shape, llama_shape

SHAPES = {
    "6": bert_shape(6, 384, 1536, 12),
    "12": bert_shape(12, 768, 3072, 12),
    "24": bert_shape(24, 1024, 4096, 16),
    "1": bert_shape(1, 8, 16, 2),
    "no-biases": llama_shape(),
}
RESTRICTED: dict[str, dict[str, Any]] = {
    "one-value": {"methods": {"lora": {"rank": 8, "placement": "last", "learning_rate": 0.001}}},
    "subsets": {
        "methods": {
            "lora": {"sites": [["q", "v"], ["q", "k", "v"]], "placement": ["range", "all"]},
            "ia3": {"sites": "all"},
        }
    },
    "any-of-two": {"combine": "any", "methods": {"lora": {"sites": ["q", "v"]}, "ia3": None}},
}
SPECS: dict[str, Any] = {"default": "default", "lora": "lora", "mixed": "mixed", **RESTRICTED}
RICH_SHAPES = {
    "rich": rich_bert_shape(4, 96, 384, 4),
    "encoder-decoder": encoder_decoder_shape(),
    "alternating": alternating_shape(),
}
#: Of each kind of space that is more than a choice of one method with settings of its own.
RICH_SPECS: dict[str, Any] = {
    "lora": "lora",
    "mixed": "mixed",
    "everything": "everything",
    "listed-sites": {
        "methods": {
            "lora": {
                "sites": [["q", "v"], ["q", "v", "ffn_in"], ["ffn_in"]],
                "placement": ["last", "range", {"layers": [0, 3]}],
            }
        }
    },
    "shared": {
        "combine": "any",
        "layers": "shared",
        "placement": ["range", {"pattern": "every 2"}],
        "methods": {"lora": {"sites": [["q"]]}, "ia3": {"sites": "v"}, "miss": None},
    },
    "together": {"combine": "all", "methods": ["lora", "ia3"]},
    "families": {
        "combine": "any",
        "one_per_family": True,
        "max_methods": 2,
        "placement": ["all", "last"],
        "methods": ["lora", "lora-fa", "miss", "ia3", "hra", "boft"],
    },
    "training": {
        "combine": "any",
        "max_methods": 2,
        "methods": ["lora", "ia3", "miss", "prefix"],
        "training": {
            "gradient_checkpointing": [False, True],
            "batch_size": [8, 16, 48],
            "optimizer": ["adamw", "sgd", "lora-fa"],
            "precision": "bfloat16",
        },
    },
}


def spaces() -> dict[str, SearchSpace]:
    built = {
        f"{name}-{size}": load_space(spec, shape)
        for name, spec in SPECS.items()
        for size, shape in SHAPES.items()
    }
    built |= {
        f"{name}-{size}": load_space(spec, shape)
        for name, spec in RICH_SPECS.items()
        for size, shape in RICH_SHAPES.items()
    }
    own = set(preset_names()) - SPECS.keys() - RICH_SPECS.keys()
    built |= {name: load_space(name, RICH_SHAPES["rich"]) for name in sorted(own)}
    return built | {f"sweep-{size}": lora_sweep_space(shape) for size, shape in SHAPES.items()}


SPACES = spaces()
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture
def default() -> SearchSpace:
    return SPACES["default-12"]


@every_space
class TestEverySpace:
    @settings(max_examples=15)
    @given(seed=seeds)
    def test_encoding_comes_back(self, space: SearchSpace, seed: int) -> None:
        members = space.sample(20, np.random.default_rng(seed))
        X = space.encode(members)
        assert X.shape == (len(members), space.num_dimensions)
        assert X.dtype == np.float64
        assert np.all((X >= 0) & (X <= 1))
        assert space.decode(X) == members
        assert len(np.unique(X, axis=0)) == len(members)

    @settings(max_examples=15)
    @given(seed=seeds)
    def test_any_point_decodes_to_a_member(self, space: SearchSpace, seed: int) -> None:
        X = np.random.default_rng(seed).random((10, space.num_dimensions))
        members = space.decode(X)
        assert all(member in space for member in members)
        assert space.decode(space.encode(members)) == members

    @settings(max_examples=15)
    @given(seed=seeds)
    def test_samples_are_distinct_members(self, space: SearchSpace, seed: int) -> None:
        members = space.sample(30, np.random.default_rng(seed))
        assert len({member.key for member in members}) == len(members)
        assert [space.explain(member) for member in members] == [[]] * len(members)

    @settings(max_examples=15)
    @given(seed=seeds)
    def test_neighbours_are_other_members(self, space: SearchSpace, seed: int) -> None:
        generator = np.random.default_rng(seed)
        for member in space.sample(5, generator):
            neighbour = space.mutate(member, generator)
            assert neighbour in space
            assert neighbour != member

    def test_configurations_survive_json(self, space: SearchSpace) -> None:
        members = space.sample(20, np.random.default_rng(0))
        texts = [json.dumps(member.to_json()) for member in members]
        again = [Configuration.from_json(json.loads(text)) for text in texts]
        assert again == members
        assert [member.key for member in again] == [member.key for member in members]
        assert all(member in space for member in again)

    def test_sobol_points_stand_alone(self, space: SearchSpace) -> None:
        members = space.sobol(40, seed=3)
        assert all(member in space for member in members)
        assert space.sobol(5, seed=3, skip=17) == members[17:22]
        assert space.sobol(2, seed=3, skip=100) == space.sobol(102, seed=3)[100:]

    def test_same_seed_same_draws(self, space: SearchSpace) -> None:
        one = space.sample(20, np.random.default_rng(5))
        assert space.sample(20, np.random.default_rng(5)) == one
        mutated = [space.mutate(member, np.random.default_rng(6)) for member in one]
        assert [space.mutate(member, np.random.default_rng(6)) for member in one] == mutated

    def test_portfolio_is_in_the_space(self, space: SearchSpace) -> None:
        proposals = space.portfolio()
        members = [proposal.configuration for proposal in proposals]
        assert proposals
        assert len(set(members)) == len(members)
        assert all(member in space for member in members)
        sizes = [space.num_adapter_parameters(member) for member in members]
        assert sizes == sorted(sizes)

    def test_nearest_keeps_members(self, space: SearchSpace) -> None:
        members = space.sample(20, np.random.default_rng(0))
        assert [space.nearest(member) for member in members] == members

    def test_describes_itself(self, space: SearchSpace) -> None:
        assert len(space.describe()) >= 3
        assert len(set(space.dimension_names)) == space.num_dimensions

    def test_no_rows(self, space: SearchSpace) -> None:
        assert space.encode([]).shape == (0, space.num_dimensions)
        assert space.decode(np.empty((0, space.num_dimensions))) == []
        assert space.sample(0, np.random.default_rng(0)) == []
        assert space.sobol(0, seed=0) == []


class TestEncoding:
    def test_default_has_about_thirty_dimensions(self, default: SearchSpace) -> None:
        assert default.num_dimensions == 28
        assert sum(name.startswith("layer:") for name in default.dimension_names) == 12

    def test_columns_by_hand(self, default: SearchSpace) -> None:
        module = Module.of(
            "lora", (0, 11), rank=8, alpha_ratio=2.0, sites=("q", "v"), dora=False, rslora=True
        )
        rates = default.learning_rates(("lora",))
        top = Configuration(modules=(module,), learning_rate=rates.high)
        row = dict(zip(default.dimension_names, default.encode([top])[0], strict=True))
        assert row["method:lora"] == 1
        assert row["method:ia3"] == 0
        assert row["learning_rate"] == 1
        assert [row[f"layer:{layer}"] for layer in range(12)] == [1, *[0] * 10, 1]
        assert row["rank"] == pytest.approx(0.5)
        assert row["alpha_ratio"] == pytest.approx(2 / 3)
        assert (row["dora"], row["rslora"]) == (0, 1)
        assert [row[f"sites:{s}"] for s in ("q", "k", "v", "ffn_in")] == [1, 0, 1, 0]
        assert row["prefix_length"] == 0.5

    def test_what_a_method_cannot_have_is_neutral_or_off(self, default: SearchSpace) -> None:
        module = Module.of("ia3", (3,), sites=("k", "v"))
        rates = default.learning_rates(("ia3",))
        configuration = Configuration(modules=(module,), learning_rate=rates.low)
        row = dict(zip(default.dimension_names, default.encode([configuration])[0], strict=True))
        assert row["learning_rate"] == 0
        assert (row["sites:q"], row["sites:k"]) == (0, 1)
        assert [row[name] for name in ("rank", "dora", "prefix_length")] == [0.5] * 3

    def test_the_same_relative_rate_is_the_same_number(self, default: SearchSpace) -> None:
        place = default.dimension_names.index("learning_rate")
        members = [
            Configuration(
                modules=p.configuration.modules,
                learning_rate=default.learning_rates(p.configuration.methods).at(0.3),
            )
            for p in default.portfolio()
        ]
        assert len({member.methods for member in members}) == 4
        # Rates are kept to six digits.
        assert default.encode(members)[:, place] == pytest.approx([0.3] * len(members), abs=1e-5)

    def test_mixed_rates_are_the_geometric_middle(self) -> None:
        space = SPACES["mixed-12"]
        both = space.learning_rates(("ia3", "lora"))
        lora, ia3 = space.learning_rates(("lora",)), space.learning_rates(("ia3",))
        assert both.low == pytest.approx((lora.low * ia3.low) ** 0.5, rel=1e-5)
        assert both.high == pytest.approx((lora.high * ia3.high) ** 0.5, rel=1e-5)

    @pytest.mark.parametrize("shape", [(3, 5), (28,), (2, 28, 1)])
    def test_refuses_another_shape(self, default: SearchSpace, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"expected n x 28"):
            default.decode(np.zeros(shape))

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_refuses_what_is_not_finite(self, default: SearchSpace, value: float) -> None:
        with pytest.raises(ValueError, match="NaN or infinite"):
            default.decode(np.full((1, 28), value))


class TestSampling:
    def test_every_method_is_as_likely(self, default: SearchSpace) -> None:
        drawn = default.sample(4000, np.random.default_rng(0))
        counts = Counter(member.methods[0] for member in drawn)
        # 1,000 expected; five standard deviations are 137.
        assert list(counts.values()) == pytest.approx([1000] * 4, abs=137)

    def test_mixed_draws_several_methods(self) -> None:
        drawn = SPACES["mixed-12"].sample(200, np.random.default_rng(0))
        counts = Counter(member.methods for member in drawn)
        assert len(counts) == 8
        assert all(len(methods) == 1 for methods in counts if "prefix" in methods)

    def test_a_space_that_is_finite_ends(self) -> None:
        space = load_space(
            {
                "methods": {
                    "lora": {
                        "rank": [4, 8],
                        "alpha_ratio": 1,
                        "sites": "all",
                        "dora": False,
                        "rslora": False,
                        "placement": "all",
                        "learning_rate": 0.001,
                    }
                }
            },
            SHAPES["6"],
        )
        members = space.sample(10, np.random.default_rng(0))
        assert sorted(int(str(m.modules[0]["rank"])) for m in members) == [4, 8]
        assert space.num_dimensions == 1
        assert space.mutate(members[0], np.random.default_rng(0)) == members[1]

    def test_a_space_of_one(self) -> None:
        settings = {"prefix_length": 16, "learning_rate": 0.01}
        space = load_space({"methods": {"prefix": settings}}, SHAPES["6"])
        (member,) = space.sample(5, np.random.default_rng(0))
        assert space.num_dimensions == 0
        assert space.mutate(member, np.random.default_rng(0)) == member
        assert space.decode(space.encode([member])) == [member]

    def test_neighbours_reach_every_dimension(self, default: SearchSpace) -> None:
        generator = np.random.default_rng(0)
        start = next(p.configuration for p in default.portfolio() if "lora-sweep" in p.origin)
        X = default.encode([start, *(default.mutate(start, generator) for _ in range(600))])
        changed = np.any(X[1:] != X[0], axis=0)
        assert [n for n, c in zip(default.dimension_names, changed, strict=True) if not c] == []

    def test_the_same_in_another_process(self, default: SearchSpace) -> None:
        code = (
            "import numpy as np\n"
            "from tests.search_spaces.test_space import SHAPES, load_space\n"
            "space = load_space('default', SHAPES['12'])\n"
            "drawn = space.sample(50, np.random.default_rng(1))\n"
            "print(' '.join(member.key for member in drawn))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        drawn = default.sample(50, np.random.default_rng(1))
        assert done.stdout.split() == [member.key for member in drawn]


class TestMembership:
    def lora(self, layers: tuple[int, ...] = (0,), **changed: Any) -> Module:
        plain = {"rank": 8, "alpha_ratio": 2.0, "sites": ("q",), "dora": False, "rslora": False}
        return Module.of("lora", layers, **{**plain, **changed})

    def reasons(self, space: SearchSpace, *modules: Module, rate: float = 1e-3) -> list[str]:
        return space.explain(Configuration(modules=modules, learning_rate=rate))

    @pytest.mark.parametrize(
        ("changed", "reason"),
        [
            ({"rank": 7}, "lora: rank is 7, expected 1, 2, 4, 8, 16, 32, 64"),
            ({"rank": True}, "lora: rank is True"),
            ({"alpha_ratio": 2}, "lora: alpha_ratio is 2, expected 0.5, 1, 2, 4"),
            ({"sites": ("v", "q")}, r"lora: sites is \('v', 'q'\), expected any of q, k"),
            ({"dora": 1}, "lora: dora is 1, expected off, on"),
            ({"bias": "all"}, "lora has no setting 'bias'"),
            ({"layers": (0, 12)}, r"lora: layers \[0, 12\] cannot be reached"),
            ({"rank": 4, "alpha_ratio": 1.0, "rslora": True}, "trains identically to .*2.0"),
        ],
    )
    def test_a_module_that_does_not_belong(
        self, default: SearchSpace, changed: dict[str, Any], reason: str
    ) -> None:
        (found,) = self.reasons(default, self.lora(**changed))
        assert re.search(reason, found)

    def test_a_setting_is_missing(self, default: SearchSpace) -> None:
        module = Module.of("ia3", (0,))
        assert self.reasons(default, module) == ["ia3 needs a value for sites"]

    def test_learning_rate_outside(self, default: SearchSpace) -> None:
        assert self.reasons(default, self.lora(), rate=0.5) == [
            "learning_rate is 0.5, expected 0.0002 to 0.01"
        ]

    def test_all_reasons_at_once(self, default: SearchSpace) -> None:
        assert len(self.reasons(default, self.lora(rank=3, dora=2), rate=0.5)) == 3

    def test_methods_that_do_not_belong(self, default: SearchSpace) -> None:
        ia3 = Module.of("ia3", (0,), sites=("k",))
        together = "ia3 + lora cannot be one configuration of this space"
        assert self.reasons(default, self.lora(), ia3) == [together]
        assert self.reasons(SPACES["mixed-12"], self.lora(), ia3, rate=2e-3) == []
        assert self.reasons(default) == [
            "no method at all cannot be one configuration of this space"
        ]
        assert self.reasons(SPACES["lora-12"], ia3) == ["ia3 is not in the space (lora)"]

    def test_something_else_is_no_member(self, default: SearchSpace) -> None:
        assert "lora" not in default
        assert None not in default

    def test_canonical_only_inside_the_space(self) -> None:
        """Where plain LoRA is not offered, rsLoRA that equals it stands for itself."""
        space = load_space({"methods": {"lora": {"rslora": True}}}, SHAPES["12"])
        module = self.lora(rank=4, alpha_ratio=1.0, rslora=True)
        assert self.reasons(space, module) == []


class TestCounts:
    def test_by_hand(self, default: SearchSpace) -> None:
        lora = Module.of(
            "lora",
            (0, 1),
            rank=8,
            alpha_ratio=2.0,
            sites=("q", "ffn_in"),
            dora=False,
            rslora=False,
        )
        configuration = Configuration(modules=(lora,), learning_rate=1e-3)
        by_hand = 2 * 8 * ((768 + 768) + (768 + 3072))
        assert default.num_adapter_parameters(configuration) == by_hand

    def test_methods_add_up(self) -> None:
        space = SPACES["mixed-12"]
        ia3 = Module.of("ia3", (0,), sites=("k", "ffn_out"))
        beft = Module.of("beft", (1, 2), sites=("ffn_in",))
        both = Configuration(modules=(ia3, beft), learning_rate=1e-2)
        assert space.num_adapter_parameters(both) == (768 + 3072) + 2 * 3072

    @pytest.mark.parametrize(("size", "length", "count"), [("6", 16, 73_728), ("12", 1, 18_432)])
    def test_prefix(self, size: str, length: int, count: int) -> None:
        module = Module.of("prefix", range_of(SHAPES[size]), prefix_length=length)
        configuration = Configuration(modules=(module,), learning_rate=1e-2)
        assert SPACES[f"default-{size}"].num_adapter_parameters(configuration) == count


def range_of(shape: ModelShape) -> tuple[int, ...]:
    return tuple(range(shape.num_layers))


class TestPortfolio:
    def test_default_holds_every_method(self, default: SearchSpace) -> None:
        proposals = default.portfolio()
        assert {p.configuration.methods[0] for p in proposals} == set(default.methods)
        assert 6 <= len(proposals) <= 8

    def test_the_baseline_is_marked(self, default: SearchSpace) -> None:
        marked = [p.configuration for p in default.portfolio() if p.origin != "portfolio"]
        assert len(marked) == 3
        assert {p.origin for p in default.portfolio()} == {"portfolio", "portfolio:lora-sweep"}
        sweep = SPACES["sweep-12"]
        assert all(configuration in sweep for configuration in marked)
        assert len({m.learning_rate for m in marked}) == 3
        assert {m.modules[0]["rank"] for m in marked} == {8, 32}

    def test_a_restricted_space_has_its_own(self) -> None:
        spec = {"methods": {"lora": {"rank": [16, 64], "sites": ["q", "v"]}}}
        proposals = load_space(spec, SHAPES["12"]).portfolio()
        assert {p.configuration.modules[0]["rank"] for p in proposals} == {16}
        assert {p.origin for p in proposals} == {"portfolio"}


class TestLoraSweep:
    def test_only_rank_and_learning_rate_vary(self) -> None:
        space = SPACES["sweep-12"]
        assert space.dimension_names == ("learning_rate", "rank")
        for member in space.sample(50, np.random.default_rng(0)):
            module = member.modules[0]
            assert module.layers == range_of(space.shape)
            assert module["sites"] == space.shape.site_names
            assert (module["alpha_ratio"], module["dora"], module["rslora"]) == (2.0, False, False)

    def test_is_part_of_default(self, default: SearchSpace) -> None:
        drawn = SPACES["sweep-12"].sample(50, np.random.default_rng(0))
        assert all(member in default for member in drawn)


class TestNearest:
    def test_from_another_space(self) -> None:
        space = load_space(
            {"methods": {"lora": {"rank": [4, 16], "sites": ["q", "v"], "placement": "last"}}},
            SHAPES["12"],
        )
        (wanted,) = SPACES["lora-12"].sample(1, np.random.default_rng(4))
        found = space.nearest(wanted)
        assert found is not None
        assert found in space
        assert found.learning_rate == wanted.learning_rate

    def test_none_without_the_method(self) -> None:
        prefix = next(
            p.configuration
            for p in SPACES["default-12"].portfolio()
            if p.configuration.methods == ("prefix",)
        )
        assert SPACES["lora-12"].nearest(prefix) is None


def test_import_needs_no_torch() -> None:
    code = (
        "import sys, autopeft.search_spaces.space as s\n"
        "heavy = {'torch', 'transformers', 'peft', 'ConfigSpace', 'scipy', 'pandas'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
