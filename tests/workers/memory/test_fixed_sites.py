"""Modules on the very sites they stand on: accounts, and what stands apart in them."""

from __future__ import annotations

import pytest

from autopeft.search_spaces.configuration import Configuration, Module, Setting
from autopeft.search_spaces.method import get_method
from autopeft.workers.memory import MemoryModel
from autopeft.workers.memory.accountant import Accountant
from autopeft.workers.memory.accounts import LOWEST, OUTSIDE, Account, Reach
from tests.workers.memory.test_probe import configuration

LAYERS = (0, 1, 2, 3)
ATTENTION = ("q", "k", "v", "attention_output")


@pytest.fixture(scope="module")
def accountant(memory: MemoryModel) -> Accountant:
    """Return the one that the session's memory model measures with."""
    found = memory._predictor.variants.accountant
    assert found is not None
    return found


def settings_of(memory: MemoryModel, method: str, **changes: Setting) -> dict[str, Setting]:
    dimensions = get_method(method).dimensions(memory._shape)
    return {**{d.name: d.default for d in dimensions}, **changes}


def account_of(accountant: Accountant, memory: MemoryModel, method: str) -> Account:
    settings = settings_of(memory, method, sites=ATTENTION)
    found = accountant._fixed_sites.account(
        accountant.everywhere(method, settings, is_fixed=True), (method,)
    )
    assert found is not None
    return found


def chosen_on(
    memory: MemoryModel, method: str, layers: tuple[int, ...], **changes: Setting
) -> Configuration:
    return configuration(Module.of(method, layers, **settings_of(memory, method, **changes)))


def test_a_group_of_sites_is_one_source(accountant: Accountant, memory: MemoryModel) -> None:
    account = account_of(accountant, memory, "lora")
    assert list(account.shares) == [(0, "")]
    assert account.subset_names == frozenset()
    assert account.reach is Reach.CARRYING
    assert account.has_lowest


def test_frozen_bytes_that_layers_share_are_told_from_their_own(
    accountant: Accountant, memory: MemoryModel
) -> None:
    """VeRA's projections stand beside the layers, and serve them all."""
    account = account_of(accountant, memory, "vera")
    shared = account.resident.get(OUTSIDE, 0.0)
    assert shared > 0
    assert account.resident.get((0, ""), 0.0) == pytest.approx(
        account.resident.get((0, LOWEST), 0.0)
    )
    for layers in ((3,), LAYERS):
        chosen = chosen_on(memory, "vera", layers, sites=ATTENTION)
        probed = memory.probe(chosen).components["weights"]
        assert memory.estimate(chosen).components["weights"] == probed


def test_methods_without_frozen_parameters_bring_none(
    accountant: Accountant, memory: MemoryModel
) -> None:
    assert account_of(accountant, memory, "lora").resident == {}


def test_what_grows_with_the_rank_grows_with_the_text(
    accountant: Accountant, memory: MemoryModel
) -> None:
    growth = account_of(accountant, memory, "lora").growth
    values, places = growth.along["rank"]
    saved, resident, of_weights = places[0, ""][-1]
    tokens = memory._step.batch_size * memory._step.tokens
    more = (values[-1] - values[0]) * len(ATTENTION) * tokens * 4
    assert (saved, resident, of_weights) == (pytest.approx(more), 0.0, 0.0)


def test_weights_that_a_method_computes_do_not_grow_with_the_text(
    accountant: Accountant, memory: MemoryModel
) -> None:
    """Peanut adds an update as large as the weight of each of its sites, and keeps it."""
    account = account_of(accountant, memory, "peanut")
    sizes = [account.shares[0, ""].extra[key] for key in account.of_weights]
    assert sizes.count(32 * 32 * 4) >= len(ATTENTION)


@pytest.mark.parametrize("layers", [(0, 1, 2, 3), (1, 2), (3,)], ids=str)
@pytest.mark.parametrize("method", ["vera", "hra", "peanut", "loha"])
def test_attention_as_a_whole_is_predicted(
    memory: MemoryModel, method: str, layers: tuple[int, ...]
) -> None:
    chosen = chosen_on(memory, method, layers, sites=ATTENTION)
    held = memory._step.run(memory._step.build(chosen)).held
    memory.predict([chosen])
    assert memory._predictor.add_up(chosen.modules).held == pytest.approx(held, rel=0.002)


def test_a_method_that_reads_what_the_lowest_layer_takes_in_is_not_measured_alone(
    accountant: Accountant, memory: MemoryModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = accountant._fixed_sites
    module = accountant.everywhere("lora", settings_of(memory, "lora", sites=ATTENTION))
    flow = accountant.shallow.flow[0]
    assert not fixed._enters_below({1: {("", 0): flow}})
    assert fixed._enters_below({0: {("", 0): flow}})
    monkeypatch.setattr(fixed, "_enters_below", lambda _: True)
    assert fixed.account(module, ("lora",)) is None
