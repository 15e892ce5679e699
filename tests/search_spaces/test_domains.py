"""Domains: membership, translations, neighbours."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft.search_spaces.domains import Domain, SubsetDomain, ValueDomain
from autopeft.search_spaces.method import Dimension
from autopeft.search_spaces.placement import KINDS, LayerDomain


def ordinal(*values: Any, default: Any = None) -> ValueDomain:
    return ValueDomain(
        Dimension(
            name="rank",
            kind="ordinal",
            values=values,
            default=values[0] if default is None else default,
            help="",
        )
    )


def categorical(*values: Any) -> ValueDomain:
    return ValueDomain(
        Dimension(name="kind", kind="categorical", values=values, default=values[0], help="")
    )


DOMAINS: dict[str, Domain] = {
    "ordinal": ordinal(1, 2, 4, 8, 64),
    "ordinal-fraction": ordinal(0.5, 1.0, 2.0),
    "ordinal-with-zero": ordinal(0, 1, 5),
    "single": ordinal(8),
    "flag": categorical(False, True),
    "categorical": categorical("a", "b", "c"),
    "subset": SubsetDomain("sites", ("q", "k", "v"), default=("q",)),
    "subset-of-one": SubsetDomain("sites", ("q",), default=("q",)),
    "subset-listed": SubsetDomain(
        "sites", ("q", "k", "v"), allowed=[("q",), ("q", "v"), ("q", "k", "v")], default=("q", "v")
    ),
    "layers-all": LayerDomain(6, ("all",)),
    "layers-last": LayerDomain(6, ("last",)),
    "layers-range": LayerDomain(6, ("all", "range")),
    "layers-free": LayerDomain(6, ("free",)),
    "layers-any": LayerDomain(12, KINDS),
    "layers-of-one": LayerDomain(1, KINDS),
}
unit = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize("domain", DOMAINS.values(), ids=DOMAINS.keys())
class TestEveryDomain:
    @given(data=st.data())
    def test_what_is_drawn_comes_back_from_its_code(
        self, domain: Domain, data: st.DataObject
    ) -> None:
        u = data.draw(st.lists(unit, min_size=40, max_size=40))[: domain.num_coordinates]
        value = domain.draw(u)
        codes = domain.encode(value)
        assert value in domain
        assert len(codes) == len(domain.columns)
        assert all(0 <= code <= 1 for code in codes)
        assert domain.decode(codes) == value

    @given(data=st.data())
    def test_any_point_decodes_to_a_member(self, domain: Domain, data: st.DataObject) -> None:
        size = len(domain.columns)
        assert domain.decode(data.draw(st.lists(unit, min_size=size, max_size=size))) in domain

    @given(seed=st.integers(0, 2**32 - 1))
    def test_neighbours_are_other_members(self, domain: Domain, seed: int) -> None:
        generator = np.random.default_rng(seed)
        value = domain.draw(generator.random(domain.num_coordinates).tolist())
        neighbour = domain.neighbour(value, generator)
        assert neighbour in domain
        assert (neighbour == value) == domain.is_constant

    def test_ends_of_the_unit_interval_are_fine(self, domain: Domain) -> None:
        assert domain.draw([0.0] * domain.num_coordinates) in domain
        assert domain.draw([1.0] * domain.num_coordinates) in domain

    def test_default_is_a_member(self, domain: Domain) -> None:
        assert domain.default in domain
        assert domain.nearest(domain.default) == domain.default

    def test_describes_itself(self, domain: Domain) -> None:
        assert domain.describe()


def test_powers_of_two_are_evenly_spaced() -> None:
    domain = ordinal(1, 2, 4, 8, 16)
    codes = [domain.encode(value)[0] for value in domain.values]
    assert [b - a for a, b in pairwise(codes)] == pytest.approx([0.25] * 4)


@pytest.mark.parametrize("value", [True, 1.0, 3, "1", None, (1,)])
def test_a_value_of_another_type_is_no_member(value: object) -> None:
    assert value not in ordinal(1, 2)


def test_a_number_is_no_flag() -> None:
    assert 1 not in categorical(False, True)


@pytest.mark.parametrize(
    "value", [(), ("v", "q"), ("q", "q"), ("x",), ["q"], "q", None, ("q", "k", "v", "x")]
)
def test_not_a_subset(value: object) -> None:
    assert value not in DOMAINS["subset"]


@pytest.mark.parametrize(
    ("value", "nearest"), [(1, 4), (5, 4), (6, 8), (100, 16), (8, 8), (0, 4), ("x", 4)]
)
def test_nearest_ordinal_in_ratio(value: object, nearest: int) -> None:
    assert ordinal(4, 8, 16).nearest(value) == nearest


def test_nearest_subset_keeps_what_it_can() -> None:
    domain = SubsetDomain("sites", ("q", "v", "ffn_in"), default=("q",))
    assert domain.nearest(("v", "k", "q")) == ("q", "v")
    assert domain.nearest(("k",)) == ("q", "v", "ffn_in")


def test_every_size_of_a_subset_is_as_likely() -> None:
    domain = SubsetDomain("sites", tuple("abcdef"), default=("a",))
    generator = np.random.default_rng(0)
    sizes = [len(domain.draw(u)) for u in generator.random((6000, 7)).tolist()]
    # 1,000 expected of each size; five standard deviations are 144.
    assert np.bincount(sizes)[1:] == pytest.approx([1000] * 6, abs=144)


class TestLayers:
    @pytest.mark.parametrize(
        ("kinds", "member", "other"),
        [
            (("all",), (0, 1, 2, 3), (2, 3)),
            (("last",), (2, 3), (1, 2)),
            (("range",), (1, 2), (0, 2)),
            (("free",), (0, 2), ()),
            (("all", "last"), (0, 1, 2, 3), (0,)),
        ],
    )
    def test_what_a_kind_reaches(
        self, kinds: Any, member: tuple[int, ...], other: tuple[int, ...]
    ) -> None:
        domain = LayerDomain(4, kinds)
        assert member in domain
        assert other not in domain

    @pytest.mark.parametrize(("kinds", "count"), [(("last",), 5), (("range",), 15), (("all",), 1)])
    def test_number_of_sets(self, kinds: Any, count: int) -> None:
        domain = LayerDomain(5, kinds)
        assert domain.allowed is not None
        assert len(domain.allowed) == count

    @pytest.mark.parametrize(
        ("layers", "kind"),
        [((0, 1, 2, 3), "all"), ((3,), "last"), ((0, 1), "range"), ((0, 2), "free")],
    )
    def test_simplest_kind(self, layers: tuple[int, ...], kind: str) -> None:
        assert LayerDomain(4, KINDS).kind_of(layers) == kind

    def test_no_kind_reaches_it(self) -> None:
        with pytest.raises(KeyError):
            LayerDomain(4, ("all", "last")).kind_of((0, 2))

    def test_layers_outside_the_model(self) -> None:
        assert (4,) not in LayerDomain(4, KINDS)
        assert LayerDomain(4, KINDS).nearest((2, 3, 4, 5)) == (2, 3)
