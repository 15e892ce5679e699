"""Methods that stand on one site: what each of them keeps beside the others."""

from __future__ import annotations

import pytest

from autopeft.search_spaces.configuration import Module, Setting
from autopeft.search_spaces.method import get_method
from autopeft.workers.memory import MemoryModel
from autopeft.workers.memory.wiring import Read, Wiring, rewired
from tests.workers.memory.test_families import memory_of
from tests.workers.memory.test_probe import configuration, lora

LAYERS = (0, 1, 2, 3)
SITES = ("q", "k", "v", "attention_output")
TAKEN_IN, GIVEN_OUT = ("layer.1.norm", 0), ("layer.1.query", 0)
QUERY = "layer.1.query"


def default(memory: MemoryModel, method: str, **changes: Setting) -> Module:
    settings = {d.name: d.default for d in get_method(method).dimensions(memory._shape)}
    return Module.of(method, LAYERS, **{**settings, **changes})


def held_by(memory: MemoryModel, *modules: Module) -> tuple[float, int]:
    """Return what modules together are predicted to hold, and what they do hold."""
    chosen = configuration(*modules)
    memory.predict([chosen])
    held = memory._step.run(memory._step.build(chosen)).held
    return memory._predictor.add_up(chosen.modules).held, held


@pytest.mark.parametrize(
    ("inner", "outer"), [("lora", "oft"), ("lokr", "oft"), ("half", "oft"), ("road", "ia3")]
)
def test_what_a_chain_of_methods_keeps_is_predicted(
    memory: MemoryModel, inner: str, outer: str
) -> None:
    sites = ("ffn_in", "ffn_out") if outer == "ia3" else SITES
    changes = {} if inner == "half" else {"sites": sites}
    modules = default(memory, inner, **changes), default(memory, outer, sites=sites)
    predicted, held = held_by(memory, *modules)
    assert predicted == pytest.approx(held, rel=0.001 if inner != "lokr" else 0.006)


@pytest.mark.parametrize("method", ["lora", "serial-adapter", "ia3"])
def test_text_that_a_method_makes_longer_is_longer_for_the_others(
    memory: MemoryModel, method: str
) -> None:
    longer = default(memory, "dept", num_virtual_tokens=16)
    predicted, held = held_by(memory, longer, default(memory, method))
    assert predicted == pytest.approx(held, rel=0.002)


def test_what_reads_the_output_of_another_attention_keeps_it() -> None:
    """A gated prefix computes attention itself, and keeps no output of it, which a decoder does."""
    memory = memory_of("llama")
    prefix = default(memory, "layer-prefix", gated=True)
    predicted, held = held_by(memory, prefix, lora(LAYERS, sites=("attention_output",)))
    assert predicted == pytest.approx(held, rel=0.002)


def test_layers_that_prompts_go_through_as_well_keep_their_weights_twice(
    memory: MemoryModel,
) -> None:
    prompts = default(memory, "iapt", num_virtual_tokens=1)
    predicted, held = held_by(memory, prompts, default(memory, "peanut", sites=SITES))
    assert predicted == pytest.approx(held, rel=0.01)


def wiring(
    order: int,
    *reads: tuple[str, int],
    inputs: dict[str, object] | None = None,
    outputs: dict[str, object] | None = None,
) -> Wiring:
    return Wiring(
        reads=tuple(Read(path=QUERY, label=label, size=8) for label in reads),
        wrapped=frozenset({QUERY}),
        order=(order,),
        inputs=inputs or {},
        outputs=outputs or {},
    )


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
    assert mine is not None
    assert mine.applied({TAKEN_IN: 8}) == expected
    assert others is None


def test_the_outer_method_reads_what_the_inner_one_gives_out() -> None:
    inner = wiring(0, GIVEN_OUT, outputs={QUERY: "scaled"})
    outer = wiring(1, GIVEN_OUT, outputs={QUERY: "scaled again"})
    placed = [(inner, None), (outer, None)]
    first, second = rewired(placed, {QUERY: TAKEN_IN}, {GIVEN_OUT: QUERY})
    assert first is not None
    assert second is not None
    assert first.applied({GIVEN_OUT: 8}) == {GIVEN_OUT: 8}
    assert second.applied({GIVEN_OUT: 8}) == {"scaled": 8}


def test_a_method_elsewhere_changes_nothing() -> None:
    reader = wiring(0, TAKEN_IN)
    turner = wiring(1, TAKEN_IN, inputs={QUERY: "turned"})
    placed = [(reader, None), (turner, frozenset({"layer.1.value"}))]
    mine, _ = rewired(placed, {QUERY: TAKEN_IN}, {})
    assert mine is not None
    assert mine.applied({TAKEN_IN: 8}) == {TAKEN_IN: 8}


def test_a_layer_called_again_keeps_its_weights_once_more() -> None:
    weight, text = ("x", QUERY, 1), ("x", QUERY, 2)
    reader = wiring(0, TAKEN_IN)
    caller = Wiring(again=frozenset({QUERY}), order=(1,))
    mine, _ = rewired([(reader, None), (caller, None)], {QUERY: TAKEN_IN}, {})
    assert mine is not None
    kept = mine.applied({weight: 8, text: 4}, frozenset({weight}))
    assert sum(kept.values()) == 8 + 8 + 4
