"""What every store must do; a store's tests inherit :class:`StoreContract`.

The module that inherits it has a fixture ``make_store``, of module scope: a function that
returns a new, empty store at each call.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st

from autopeft.errors import JobFolderError
from autopeft.results.store import Entry, Store

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
DATA = st.dictionaries(st.text(), JSON_VALUES, max_size=4)
#: What a driver may do: (run, kind, fact or None, data).
Steps = list[tuple[str, str, str | None, dict[str, Any]]]
STEPS: st.SearchStrategy[Steps] = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(["begin", "spent", "measurement"]),
        st.none() | st.sampled_from(["x", "y", "measurement/0/32"]),
        DATA,
    ),
    max_size=12,
)


def as_json(value: Any) -> Any:
    """Return what a log keeps of a value."""
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class StoreContract(ABC):
    @pytest.fixture
    def store(self, make_store: Callable[[], Store]) -> Store:
        return make_store()

    @abstractmethod
    def reader(self, store: Store) -> Store:
        """Return a store on the same log for reading, as another process would open it."""

    def test_a_new_log_is_empty(self, store: Store) -> None:
        assert list(store.read()) == []

    def test_begin_run_is_the_first_entry(self, store: Store) -> None:
        entry = store.begin_run("one")

        assert (entry.number, entry.run, entry.kind) == (1, "one", "run")
        assert isinstance(entry.data["pid"], int)
        assert isinstance(entry.data["host"], str)
        assert list(store.read()) == [entry]

    def test_what_is_appended_is_read(self, store: Store) -> None:
        store.begin_run("one")
        appended = store.append("one", "spent", {"seconds": 1.25, "text": "grüße\n\x00"})

        assert list(self.reader(store).read())[1:] == [appended]

    def test_read_continues_after_a_number(self, store: Store) -> None:
        store.begin_run("one")
        entries = [store.append("one", "spent", {"seconds": i}) for i in range(3)]

        assert list(store.read(after=2)) == entries[1:]
        assert list(store.read(after=4)) == []
        assert list(store.read(after=99)) == []

    def test_data_is_json_with_null_for_what_is_not_finite(self, store: Store) -> None:
        store.begin_run("one")
        entry = store.append("one", "x", {"a": (1, math.nan), "b": {"c": math.inf}})

        assert entry.data == {"a": [1, None], "b": {"c": None}}
        assert list(store.read(after=1)) == [entry]

    @pytest.mark.parametrize("data", [{"x": object()}, {"x": {1: 2}}, {"x": {1, 2}}])
    def test_what_json_cannot_hold_is_refused(self, store: Store, data: dict[str, Any]) -> None:
        store.begin_run("one")
        with pytest.raises(TypeError):
            store.append("one", "x", data)

        assert len(list(store.read())) == 1

    def test_append_needs_a_run(self, store: Store) -> None:
        with pytest.raises(JobFolderError, match="no run has begun"):
            store.append("one", "x", {})

        assert list(store.read()) == []

    def test_an_overtaken_run_cannot_write(self, store: Store) -> None:
        store.begin_run("one")
        store.append("one", "x", {}, unique="fact")
        store.begin_run("two")
        before = list(store.read())
        for unique in (None, "new", "fact"):
            with pytest.raises(JobFolderError, match="'two' has taken over") as caught:
                store.append("one", "x", {}, unique=unique)

        assert caught.value.hint is not None
        assert list(store.read()) == before

    def test_an_overtaken_run_cannot_begin_again(self, store: Store) -> None:
        store.begin_run("one")
        store.begin_run("two")
        with pytest.raises(JobFolderError, match="'two' has taken over"):
            store.begin_run("one")

        assert [entry.run for entry in store.read()] == ["one", "two"]

    def test_the_newest_run_may_begin_twice(self, store: Store) -> None:
        first = store.begin_run("one")
        store.append("one", "x", {})

        assert store.begin_run("one") == first
        assert len(list(store.read())) == 2

    def test_a_unique_fact_is_true_once(self, store: Store) -> None:
        store.begin_run("one")
        first = store.append("one", "measurement", {"score": 1}, unique="measurement/0/32")
        second = store.append("one", "measurement", {"score": 2}, unique="measurement/0/32")

        assert second == first
        assert len(list(store.read())) == 2

    def test_a_unique_fact_outlives_its_run(self, store: Store) -> None:
        store.begin_run("one")
        first = store.append("one", "job", {"name": "a"}, unique="job")
        store.begin_run("two")

        assert store.append("two", "job", {"name": "b"}, unique="job") == first

    def test_entries_without_a_fact_may_repeat(self, store: Store) -> None:
        store.begin_run("one")
        numbers = [store.append("one", "spent", {"seconds": 1}).number for _ in range(3)]

        assert numbers == [2, 3, 4]

    def test_close_is_idempotent(self, store: Store) -> None:
        store.begin_run("one")
        store.close()
        store.close()


def check_any_sequence(make_store: Callable[[], Store], steps: Steps) -> None:
    """Compare a store with a model of a few lines: numbers have no gaps, facts repeat never.

    Beside the class, as Hypothesis refuses one test method run by several classes.
    """
    with make_store() as store:
        expected: list[Entry] = []
        facts: dict[str, Entry] = {}
        for run, kind, unique, data in steps:
            newest = expected[-1].run if expected else None
            seen = {entry.run for entry in expected}
            if kind == "begin":
                if run != newest and run in seen:
                    with pytest.raises(JobFolderError):
                        store.begin_run(run)
                elif run != newest:
                    expected.append(store.begin_run(run))
            elif run != newest:
                with pytest.raises(JobFolderError):
                    store.append(run, kind, data, unique=unique)
            else:
                entry = store.append(run, kind, data, unique=unique)
                if unique in facts:
                    assert entry == facts[unique]
                else:
                    assert entry.data == as_json(data)
                    expected.append(entry)
                    if unique is not None:
                        facts[unique] = entry
        assert list(store.read()) == expected
        assert [entry.number for entry in expected] == list(range(1, len(expected) + 1))
