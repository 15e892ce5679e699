"""Proposers over spaces that search training settings: all members, and nothing but members."""

from __future__ import annotations

from typing import Any

import pytest

from autopeft.records import TrialStatus
from autopeft.search_spaces.space import load_space
from tests.proposers.contract import build, play, state_of
from tests.proposers.synthetic_job import Landscape, bert_shape
from tests.search_spaces.fixed_methods import METHODS

#: LoRA under six settings, a prefix under the three of them without checkpointing.
SMALL_SPACE: dict[str, Any] = {
    "methods": METHODS,
    "training": {"gradient_checkpointing": [False, True], "batch_size": [8, 16, 64]},
}


@pytest.mark.parametrize("name", ["random", "mobo"])
def test_a_small_space_is_searched_to_its_last_member(name: str) -> None:
    landscape = Landscape(space=load_space(SMALL_SPACE, bert_shape()))
    proposer = build(name, landscape)
    found = []
    for number in range(9):
        (proposal,) = proposer.propose(1)
        configuration = proposal.configuration
        settings = dict(configuration.training)
        found.append((configuration.methods[0], *settings.values()))
        proposer.observe(state_of(landscape, number, proposal, TrialStatus.COMPLETED, (96,)))
    assert sorted(found) == sorted(
        [("lora", size, uses) for size in (8, 16, 64) for uses in (False, True)]
        + [("prefix", size, False) for size in (8, 16, 64)]
    )
    assert proposer.propose(2) == []


@pytest.mark.parametrize("name", ["random", "mobo"])
def test_a_large_space_yields_members_that_differ_in_settings(name: str) -> None:
    space = load_space({"preset": "default", "training": SMALL_SPACE["training"]}, bert_shape())
    proposals = play(build(name, Landscape(space=space)), Landscape(space=space), 16)
    assert [space.explain(p.configuration) for p in proposals] == [[]] * 16
    assert len({p.configuration.training for p in proposals}) >= 3


def test_the_baseline_keeps_the_defaults() -> None:
    space = load_space(SMALL_SPACE, bert_shape())
    proposals = build("lora-sweep", Landscape(space=space)).propose(8)
    assert {p.configuration.training for p in proposals} == {space.training.default}
