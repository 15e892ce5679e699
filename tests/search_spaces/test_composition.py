"""Which methods stand together: no way of making a configuration breaks a rule."""

from __future__ import annotations

from collections import Counter
from itertools import chain, combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopeft.search_spaces.composition import MethodSets, WholeSets, why_apart
from autopeft.search_spaces.config_space import ConfigSpaceView
from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.method import get_method
from autopeft.search_spaces.portfolio import MAX_DEFAULTS
from autopeft.search_spaces.space import SearchSpace, load_space
from tests.search_spaces.rich_shapes import rich_bert_shape

SHAPE = rich_bert_shape(2, 48, 96, 4)
NAMES = tuple("abcdefg")
unit = st.floats(0, 1)


def conflicts(*pairs: str) -> dict[str, frozenset[str]]:
    return {
        name: frozenset(other for pair in pairs if name in pair for other in pair if other != name)
        for name in NAMES
    }


SETS: dict[str, MethodSets] = {
    "free": MethodSets(NAMES, conflicts(), 7),
    "capped": MethodSets(NAMES, conflicts(), 2),
    "one": MethodSets(NAMES, conflicts(), 1),
    "pairs": MethodSets(NAMES, conflicts("ab", "bc", "cd", "ef"), 3),
    "one-alone": MethodSets(NAMES, conflicts(*(f"a{x}" for x in "bcdefg")), 3),
    "all-alone": MethodSets(NAMES, conflicts(*("".join(p) for p in combinations(NAMES, 2))), 3),
    "single": MethodSets(("a",), {"a": frozenset()}, 3),
    "whole": WholeSets(NAMES, NAMES),
    "whole-or-alone": WholeSets(NAMES, ("b", "c", "d")),
}


def subsets(sets: MethodSets) -> list[tuple[str, ...]]:
    """Return every subset, allowed or not."""
    sizes = range(len(sets.values) + 1)
    return list(chain.from_iterable(combinations(sets.values, size) for size in sizes))


@pytest.mark.parametrize("sets", SETS.values(), ids=SETS.keys())
class TestEveryFamilyOfSets:
    """Small enough to look at each subset there is."""

    def test_membership_is_the_rule(self, sets: MethodSets) -> None:
        if isinstance(sets, WholeSets):
            pytest.skip("its rule is a list")
        for subset in subsets(sets):
            pairs = list(combinations(subset, 2))
            is_allowed = 0 < len(subset) <= sets.max_methods and not any(
                b in sets.conflicts[a] for a, b in pairs
            )
            assert (subset in sets) == is_allowed

    def test_all_sets_are_the_members(self, sets: MethodSets) -> None:
        members = [subset for subset in subsets(sets) if subset in sets]
        assert sorted(sets.all_sets(10**6)) == sorted(members)
        assert len(sets.all_sets(3)) == min(3, len(members))

    def test_each_comes_back_from_its_code(self, sets: MethodSets) -> None:
        for member in sets.all_sets(10**6):
            codes = sets.encode(member)
            assert len(codes) == len(sets.columns)
            assert sets.decode(codes) == member
            assert sets.nearest(member) == member

    def test_draws_reach_exactly_the_members(self, sets: MethodSets) -> None:
        points = np.random.default_rng(0).random((6000, sets.num_coordinates)).tolist()
        assert {sets.draw(u) for u in points} == set(sets.all_sets(10**6))

    @given(data=st.data())
    def test_any_point_is_a_member(self, sets: MethodSets, data: st.DataObject) -> None:
        codes = data.draw(st.lists(unit, min_size=len(sets.columns), max_size=len(sets.columns)))
        assert sets.decode(codes) in sets

    @given(seed=st.integers(0, 2**32 - 1))
    def test_neighbours_are_other_members(self, sets: MethodSets, seed: int) -> None:
        generator = np.random.default_rng(seed)
        member = sets.draw(generator.random(sets.num_coordinates).tolist())
        other = sets.neighbour(member, generator)
        assert other in sets
        assert (other == member) == sets.is_constant

    def test_neighbours_connect_all_members(self, sets: MethodSets) -> None:
        generator = np.random.default_rng(0)
        seen, todo = {sets.default}, [sets.default]
        while todo:
            member = todo.pop()
            for other in {sets.neighbour(member, generator) for _ in range(60)} - seen:
                seen.add(other)
                todo.append(other)
        assert seen == set(sets.all_sets(10**6))

    @pytest.mark.parametrize("value", [(), ("b", "a"), ("a", "a"), ("x",), ["a"], "a", None])
    def test_no_members(self, sets: MethodSets, value: object) -> None:
        assert value not in sets

    def test_describes_itself(self, sets: MethodSets) -> None:
        assert sets.describe()


def test_sizes_are_equally_likely() -> None:
    points = np.random.default_rng(0).random((6000, 8)).tolist()
    sizes = Counter(len(SETS["free"].draw(u)) for u in points)
    # 857 expected of each; five standard deviations are 136.
    assert list(sizes.values()) == pytest.approx([857] * 7, abs=136)


def any_of(*methods: str, **keys: Any) -> dict[str, Any]:
    return {"combine": "any", "methods": list(methods), **keys}


class TestRules:
    def apart(self, a: str, b: str, **keys: Any) -> str | None:
        parts = load_space(any_of(a, b), SHAPE).parts
        return why_apart(parts[a], parts[b], **keys)

    def test_most_stand_together(self) -> None:
        assert self.apart("lora", "ia3") is None
        assert self.apart("serial-adapter", "parallel-adapter") is None
        assert self.apart("layer-prefix", "lora") is None

    def test_alone(self) -> None:
        assert self.apart("lora", "prefix") == "prefix stands alone"

    def test_one_of_a_family(self) -> None:
        assert self.apart("serial-adapter", "parallel-adapter", one_per_family=True) == (
            "the space takes one method of the family 'adapter'"
        )
        assert self.apart("lora", "ia3", one_per_family=True) is None

    def test_what_a_model_has_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("lora", "ia3"):
            monkeypatch.setattr(type(get_method(name)), "exclusive", frozenset({"prompt"}))
        assert self.apart("lora", "ia3") == "both need the model's prompt"
        space = load_space(any_of("lora", "ia3", "miss"), SHAPE)
        assert ("ia3", "lora") not in space.method_sets
        assert ("ia3", "miss") in space.method_sets

    def test_a_set_that_breaks_a_rule_is_no_member(self) -> None:
        space = load_space(any_of("lora", "ia3", "miss", max_methods=2), SHAPE)
        modules = [p.configuration.modules[0] for p in space.portfolio()]
        each = {module.method: module for module in modules}
        three = Configuration(modules=tuple(each.values()), learning_rate=1e-3)
        assert space.explain(three) == [
            "ia3 + lora + miss cannot be one configuration of this space"
        ]
        assert space.nearest(three) is None


RULED: dict[str, dict[str, Any]] = {
    "capped": any_of("lora", "ia3", "beft", "miss", max_methods=2),
    "families": any_of("lora", "miss", "ia3", "ssf", one_per_family=True),
    "with-one-alone": any_of("lora", "ia3", "prefix"),
    "together": {"combine": "all", "methods": ["lora", "ia3", "ssf"]},
    "deployed": any_of("lora", "ia3", deploy="peft"),
}


@pytest.mark.parametrize("spec", RULED.values(), ids=RULED.keys())
class TestNoProposerBreaksARule:
    """Every way that leads to a configuration, tried until each allowed set has been seen."""

    def made(self, space: SearchSpace) -> list[Configuration]:
        generator = np.random.default_rng(0)
        sampled = space.sample(120, generator)
        decoded = space.decode(generator.random((120, space.num_dimensions)))
        mutated = [space.mutate(member, generator) for member in sampled]
        view = ConfigSpaceView(space)
        view.config_space.seed(0)
        drawn = [view.configuration(dict(c)) for c in view.config_space.sample_configuration(20)]
        starts = [proposal.configuration for proposal in space.portfolio()]
        return [*sampled, *space.sobol(64, seed=0), *decoded, *mutated, *drawn, *starts]

    def test_every_set_is_made_and_no_other(self, spec: dict[str, Any]) -> None:
        space = load_space(spec, SHAPE)
        made = {member.methods for member in self.made(space)}
        assert made == set(space.method_sets.all_sets(10**6))


class TestPortfolio:
    def test_a_small_space_starts_with_each_of_its_sets(self) -> None:
        space = load_space(any_of("ia3", "miss", "ssf", max_methods=2), SHAPE)
        starts = {proposal.configuration.methods for proposal in space.portfolio()}
        assert starts == set(space.method_sets.all_sets(100))

    def test_a_large_space_starts_with_one_of_each_family(self) -> None:
        space = load_space("everything", SHAPE)
        starts = [proposal.configuration for proposal in space.portfolio()]
        assert len(starts) == MAX_DEFAULTS
        families = {space.parts[name].method.family for c in starts for name in c.methods}
        assert len(families) >= 6
        assert any("lora" in configuration.methods for configuration in starts)


@pytest.fixture(scope="module")
def everything() -> SearchSpace:
    return load_space("everything", rich_bert_shape())


class TestEverything:
    """All methods at once: an encoding that stays small, and ways that stay open."""

    def test_holds_most_methods(self, everything: SearchSpace) -> None:
        assert len(everything.parts) >= 50

    def test_families_share_columns(self, everything: SearchSpace) -> None:
        parts = len(everything.parts)
        assert everything.num_dimensions < 5 * parts
        assert sum(name.startswith("method:") for name in everything.dimension_names) == parts

    @settings(max_examples=5)
    @given(seed=st.integers(0, 2**32 - 1))
    def test_up_to_three_of_different_families(self, everything: SearchSpace, seed: int) -> None:
        for member in everything.sample(40, np.random.default_rng(seed)):
            families = [everything.parts[name].method.family for name in member.methods]
            assert 1 <= len(families) <= 3
            assert len(set(families)) == len(families)
