"""Which methods and which kinds of models the contract suite runs on: none is left out."""

from __future__ import annotations

import pytest

from autopeft.search_spaces.method import METHODS, get_method
from autopeft.search_spaces.methods._needs_more import NeedsMore
from tests.methods import cases
from tests.methods.exceptions import (
    MERGE_TOLERANCE,
    NO_GRADIENT,
    ONLY_ON,
    START_TOLERANCE,
    ZERO_GRADIENT,
)
from tests.workers import families

#: By method: the families of models that the suite runs it on.
COVERED: dict[str, set[str]] = {}
for each in cases.all_cases():
    COVERED.setdefault(each.method, set()).add(each.family)
#: What can be searched at all.
USABLE = [name for name in METHODS.names() if not isinstance(get_method(name), NeedsMore)]


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_that_some_model_can_use_is_in_the_suite(name: str) -> None:
    assert (name in USABLE) == (name in COVERED)


@pytest.mark.parametrize("name", sorted({*METHODS.names()} - {*COVERED}))
def test_what_is_not_in_the_suite_is_offered_on_no_model(name: str) -> None:
    offered = [
        family
        for family in families.FAMILIES
        if get_method(name).unavailable(cases.shape_of(family)) is None
    ]

    assert offered == []


@pytest.mark.parametrize("name", USABLE)
def test_it_runs_on_an_encoder_a_decoder_and_both_together(name: str) -> None:
    kinds = {
        "encoder": COVERED[name] & {"bert"},
        "decoder": COVERED[name] & {"gpt2", "llama", "qwen2"},
        "encoder-decoder": COVERED[name] & {"t5"},
    }
    reached = {kind for kind, found in kinds.items() if found}

    assert reached == ONLY_ON.get(name, set(kinds))


@pytest.mark.parametrize("name", sorted(ONLY_ON))
def test_what_is_not_run_is_not_offered(name: str) -> None:
    families_of = {
        "encoder": ("bert",),
        "decoder": ("gpt2", "llama", "qwen2"),
        "encoder-decoder": ("t5",),
    }
    left_out = [
        family
        for kind, members in families_of.items()
        if kind not in ONLY_ON[name]
        for family in members
    ]

    assert left_out
    assert all(get_method(name).unavailable(cases.shape_of(family)) for family in left_out)


def test_exceptions_name_methods_that_there_are() -> None:
    named = {*ZERO_GRADIENT, *NO_GRADIENT, *MERGE_TOLERANCE, *START_TOLERANCE, *ONLY_ON}

    assert named <= set(USABLE)
