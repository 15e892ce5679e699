"""Two configurations that train identically are one, where layers differ in what they have."""

from __future__ import annotations

from itertools import chain, combinations
from typing import Any

import numpy as np
import pytest

from autopeft.errors import InvalidSpaceError
from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.search_spaces.part import LAYERS, SITES, Part
from autopeft.search_spaces.space import SearchSpace, load_space
from autopeft.search_spaces.targets import placed_sites
from tests.search_spaces.rich_shapes import (
    alternating_shape,
    encoder_decoder_shape,
    rich_bert_shape,
)

SHAPES = {
    "alternating": alternating_shape(4),
    "encoder-decoder": encoder_decoder_shape(2),
}
#: Restrictions of sites and layers, from none at all to a few of each.
RESTRICTIONS: dict[str, dict[str, Any]] = {
    "free": {},
    "last": {"placement": "last"},
    "all": {"placement": "all"},
    "range": {"placement": "range"},
    "named": {"placement": [{"layers": [0, 2]}, {"layers": [1]}, {"layers": [1, 3]}]},
    "listed-sites": {"sites": [["q"], ["v", "ffn_in"], ["q", "v", "ffn_in"]]},
    "both": {"sites": [["q", "v"], ["v", "ffn_in"]], "placement": ["last", {"layers": [0, 3]}]},
}


def subsets(values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    sizes = range(1, len(values) + 1)
    return list(chain.from_iterable(combinations(values, size) for size in sizes))


def members_of(domain: Any) -> list[tuple[Any, ...]]:
    return list(domain.allowed) if domain.allowed is not None else subsets(domain.values)


def pairs(shape: ModelShape, names: Any, layers: Any) -> frozenset[tuple[str, int]]:
    """Return the layers' modules that are really adapted: what training depends on."""
    placed = placed_sites(shape, names, layers)
    return frozenset((site.site, layer) for site, own in placed for layer in own)


@pytest.fixture(scope="module", params=SHAPES)
def shape(request: pytest.FixtureRequest) -> ModelShape:
    return SHAPES[request.param]


@pytest.fixture(scope="module", params=RESTRICTIONS)
def space(request: pytest.FixtureRequest, shape: ModelShape) -> SearchSpace:
    return load_space(spec_of(request.param), shape)


def spec_of(name: str) -> dict[str, Any]:
    fixed = {"rank": 4, "alpha_ratio": 1, "dora": False, "rslora": False, "learning_rate": 0.01}
    sites = {"sites": ["q", "v", "ffn_in"]}
    return {"methods": {"lora": {**fixed, **sites, **RESTRICTIONS[name]}}}


def values_of(part: Part, names: Any, layers: Any) -> dict[str, Any]:
    plain = {name: domain.default for name, domain in part.all_domains.items()}
    return {**plain, SITES: names, LAYERS: layers}


class TestExhaustively:
    """Every choice of sites and layers of small spaces."""

    def modules(self, space: SearchSpace) -> dict[Module, list[tuple[Any, Any]]]:
        """Return each module with the sites and layers that were chosen for it."""
        part = space.parts["lora"]
        found: dict[Module, list[tuple[Any, Any]]] = {}
        for names in members_of(part.domains[SITES]):
            for layers in members_of(part.layers):
                module = part.module(values_of(part, names, layers))
                found.setdefault(module, []).append((names, layers))
        return found

    def test_the_same_training_is_the_same_module(
        self, space: SearchSpace, shape: ModelShape
    ) -> None:
        by_training: dict[Any, set[Module]] = {}
        for module, choices in self.modules(space).items():
            trained = pairs(shape, module[SITES], module.layers)
            by_training.setdefault(trained, set()).add(module)
            chosen = {pairs(shape, names, layers) for names, layers in choices}
            assert trained in chosen
            assert chosen <= {trained, frozenset()}  # what meets no site is moved
        assert all(trained for trained in by_training)
        assert all(len(modules) == 1 for modules in by_training.values())

    def test_nothing_idle_is_named(self, space: SearchSpace, shape: ModelShape) -> None:
        for module in self.modules(space):
            trained = pairs(shape, module[SITES], module.layers)
            sites = module[SITES]
            assert isinstance(sites, tuple)
            assert {site for site, _ in trained} == set(sites)
            assert {layer for _, layer in trained} == set(module.layers)

    def test_every_module_is_a_member_and_comes_back(self, space: SearchSpace) -> None:
        part = space.parts["lora"]
        modules = list(self.modules(space))
        assert [part.explain(module) for module in modules] == [[]] * len(modules)
        assert [part.module(part.values(module)) for module in modules] == modules
        members = [Configuration(modules=(module,), learning_rate=0.01) for module in modules]
        assert space.decode(space.encode(members)) == members
        assert len(np.unique(space.encode(members), axis=0)) == len(members)
        assert set(space.sample(300, np.random.default_rng(0))) <= set(members)

    def test_no_other_module_is_a_member(self, space: SearchSpace) -> None:
        part = space.parts["lora"]
        modules = self.modules(space)
        some = next(iter(modules))
        for names in subsets(("q", "v", "ffn_in")):
            for layers in subsets(tuple(range(4))):
                module = Module.of("lora", layers, **{**some.as_dict(), SITES: names})
                assert (not part.explain(module)) == (module in modules)


class TestRepair:
    def lora(self, shape: ModelShape, **settings: Any) -> Part:
        return load_space({"methods": {"lora": settings}}, shape).parts["lora"]

    def test_moves_to_layers_that_have_the_sites(self) -> None:
        part = self.lora(SHAPES["alternating"])
        module = part.module(values_of(part, ("q",), (1, 3)))
        assert (module[SITES], module.layers) == (("q",), (0, 2))

    def test_moves_to_other_sites_where_no_layer_has_them(self) -> None:
        part = self.lora(
            SHAPES["alternating"], sites=["q", "mixer_in"], placement={"layers": [1, 3]}
        )
        module = part.module(values_of(part, ("q",), (1, 3)))
        assert (module[SITES], module.layers) == (("mixer_in",), (1, 3))

    def test_a_method_that_meets_no_site_is_left_out(self) -> None:
        spec = {"methods": {"lora": {"sites": "q", "placement": {"layers": [1, 3]}}}}
        with pytest.raises(InvalidSpaceError, match="none of its sites stands in the layers"):
            load_space(spec, SHAPES["alternating"])

    def test_layers_make_no_difference_outside_of_them(self) -> None:
        part = load_space({"methods": ["embeddings"]}, rich_bert_shape(4, 48, 96, 4)).parts
        module = part["embeddings"].module({LAYERS: (0, 1, 2, 3), SITES: ("token_embedding",)})
        assert module.layers == (0, 1, 2, 3)
