"""Methods that stand on one site: what each of them keeps beside the others."""

from __future__ import annotations

import pytest

from autopeft.search_spaces.configuration import Module, Setting
from autopeft.search_spaces.method import get_method
from autopeft.workers.memory import MemoryModel
from autopeft.workers.memory.wiring import Read, Wiring, rewired
from tests.workers.memory.test_probe import configuration, lora

LAYERS = (0, 1, 2, 3)
SITES = ("q", "k", "v", "attention_output")
TAKEN_IN, GIVEN_OUT = ("layer.1.norm", 0), ("layer.1.query", 0)
QUERY = "layer.1.query"


def default(memory: MemoryModel, method: str, **changes: Setting) -> Module:
    settings = {d.name: d.default for d in get_method(method).dimensions(memory._shape)}
    return Module.of(method, LAYERS, **{**settings, **changes})


@pytest.mark.parametrize("method", ["oft", "ssf", "ia3"])
def test_what_a_chain_of_methods_keeps_is_predicted(memory: MemoryModel, method: str) -> None:
    sites = tuple(s for s in SITES if method != "ia3" or s in ("k", "v", "attention_output"))
    other = default(memory, method, sites=sites)
    chosen = configuration(lora(LAYERS, sites=SITES), other)
    memory.predict([chosen])
    held = memory._step.run(memory._step.build(chosen)).held
    assert memory._predictor.add_up(chosen.modules).held == pytest.approx(held, rel=0.001)


def wiring(order: int, *reads: tuple[str, int], **changed: dict[str, object]) -> Wiring:
    found = tuple(Read(path=QUERY, label=label, size=8) for label in reads)
    return Wiring(reads=found, wrapped=frozenset({QUERY}), order=(order,), **changed)


@pytest.mark.parametrize(
    ("orders", "expected"),
    [((0, 1), {"turned": 8}), ((1, 0), {TAKEN_IN: 8})],
    ids=["inside", "outside"],
)
def test_the_inner_method_reads_what_the_outer_one_makes_of_the_input(
    orders: tuple[int, int], expected: dict[object, int]
) -> None:
    reader = wiring(orders[0], TAKEN_IN)
    turner = wiring(orders[1], TAKEN_IN, inputs={QUERY: "turned"})
    placed = [(reader, None), (turner, None)]
    mine, others = rewired(placed, {QUERY: TAKEN_IN}, {GIVEN_OUT: QUERY})
    assert mine.applied({TAKEN_IN: 8}) == expected
    assert others.applied({TAKEN_IN: 8}) == {TAKEN_IN: 8}


def test_the_outer_method_reads_what_the_inner_one_gives_out() -> None:
    inner = wiring(0, GIVEN_OUT, outputs={QUERY: "scaled"})
    outer = wiring(1, GIVEN_OUT, outputs={QUERY: "scaled again"})
    placed = [(inner, None), (outer, None)]
    first, second = rewired(placed, {QUERY: TAKEN_IN}, {GIVEN_OUT: QUERY})
    assert first.applied({GIVEN_OUT: 8}) == {GIVEN_OUT: 8}
    assert second.applied({GIVEN_OUT: 8}) == {"scaled": 8}


def test_a_method_elsewhere_changes_nothing() -> None:
    reader = wiring(0, TAKEN_IN)
    turner = wiring(1, TAKEN_IN, inputs={QUERY: "turned"})
    placed = [(reader, None), (turner, frozenset({"layer.1.value"}))]
    mine, _ = rewired(placed, {QUERY: TAKEN_IN}, {})
    assert mine.applied({TAKEN_IN: 8}) == {TAKEN_IN: 8}
