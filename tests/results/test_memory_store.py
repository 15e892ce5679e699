from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings

from autopeft.results.memory_store import MemoryStore
from autopeft.results.store import Store
from tests.results.contract import STEPS, Steps, StoreContract, check_any_sequence


@pytest.fixture(scope="module")
def make_store() -> Callable[[], Store]:
    return MemoryStore


class TestMemoryStore(StoreContract):
    def reader(self, store: Store) -> Store:
        return store

    def test_data_given_is_not_kept(self) -> None:
        store = MemoryStore()
        store.begin_run("one")
        data = {"metrics": {"accuracy": 0.5}}
        store.append("one", "x", data)
        data["metrics"]["accuracy"] = 0.9

        assert next(store.read(after=1)).data == {"metrics": {"accuracy": 0.5}}


@given(steps=STEPS)
@settings(max_examples=40)
def test_any_sequence_of_calls(make_store: Callable[[], Store], steps: Steps) -> None:
    check_any_sequence(make_store, steps)
