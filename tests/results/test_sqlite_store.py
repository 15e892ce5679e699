from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings

from autopeft.errors import JobFolderError
from autopeft.results import sqlite_store
from autopeft.results.sqlite_store import SqliteStore, open_store
from autopeft.results.store import Store
from tests.results.contract import STEPS, Steps, StoreContract, check_any_sequence


@pytest.fixture(scope="module")
def make_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Store]]:
    folder = tmp_path_factory.mktemp("logs")
    numbers = count()
    opened: list[SqliteStore] = []

    def make() -> Store:
        opened.append(SqliteStore(folder / f"{next(numbers)}.sqlite"))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


class TestSqliteStore(StoreContract):
    def reader(self, store: Store) -> Store:
        assert isinstance(store, SqliteStore)
        return SqliteStore(store.path, read_only=True)


@given(steps=STEPS)
@settings(max_examples=12)
def test_any_sequence_of_calls(make_store: Callable[[], Store], steps: Steps) -> None:
    check_any_sequence(make_store, steps)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.sqlite"


@pytest.fixture
def written(path: Path) -> Path:
    """Return a log of 1 + 3 entries that nobody has open."""
    with SqliteStore(path) as store:
        store.begin_run("one")
        for i in range(3):
            store.append("one", "spent", {"seconds": i})
    return path


def test_is_durable_and_readable_while_written(path: Path) -> None:
    with SqliteStore(path) as store:
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        connection.close()
        with store._engine.connect() as inside:
            assert inside.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
        store.begin_run("one")
        reader = SqliteStore(path, read_only=True)
        assert len(list(reader.read())) == 1
        store.append("one", "spent", {"seconds": 1})
        assert len(list(reader.read(after=1))) == 1


def test_a_reader_sees_what_was_appended_since_it_last_read(written: Path) -> None:
    reader = SqliteStore(written, read_only=True)
    assert len(list(reader.read())) == 4
    with SqliteStore(written) as store:
        store.begin_run("two")
        assert [entry.run for entry in reader.read(after=4)] == ["two"]
    assert len(list(reader.read())) == 5


def test_read_only_leaves_nothing_behind(written: Path) -> None:
    with SqliteStore(written, read_only=True) as reader:
        assert len(list(reader.read())) == 4

    assert [file.name for file in written.parent.iterdir()] == [written.name]


def test_read_only_works_in_a_folder_that_cannot_be_written(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert len(list(SqliteStore(written, read_only=True).read())) == 4


def test_read_only_refuses_to_write(written: Path) -> None:
    reader = SqliteStore(written, read_only=True)
    with pytest.raises(JobFolderError, match="opened for reading only"):
        reader.begin_run("two")


@pytest.mark.parametrize("options", [{"read_only": True}, {"create": False}])
def test_nothing_is_created_unasked(path: Path, options: dict[str, bool]) -> None:
    with pytest.raises(JobFolderError, match="no job log at"):
        SqliteStore(path, **options)

    assert not path.exists()


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobFolderError, match="no job log at"):
        SqliteStore(tmp_path / "absent" / "log.sqlite")


def test_an_empty_file_becomes_a_log_but_not_for_reading(path: Path) -> None:
    path.touch()  # what a driver killed while creating its log leaves behind
    with pytest.raises(JobFolderError, match="still empty"):
        SqliteStore(path, read_only=True)
    with SqliteStore(path) as store:
        assert store.begin_run("one").number == 1


def test_another_database_is_refused(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE log (x INTEGER)")
    connection.close()
    with pytest.raises(JobFolderError, match="no job log of AutoPEFT"):
        SqliteStore(path)


def test_a_database_with_the_same_tables_is_refused(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE log (x INTEGER)")
    connection.execute("CREATE TABLE meta (key TEXT, value TEXT)")
    connection.close()
    with pytest.raises(JobFolderError, match="no job log of AutoPEFT"):
        SqliteStore(path, read_only=True)


@pytest.mark.parametrize("read_only", [True, False])
def test_a_newer_schema_is_refused(written: Path, read_only: bool) -> None:
    _execute(written, "UPDATE meta SET value = '2' WHERE key = 'schema_version'")
    with pytest.raises(JobFolderError, match="schema version 2, this AutoPEFT reads up to 1") as e:
        SqliteStore(written, read_only=read_only)

    assert "upgrade" in str(e.value.hint)


@pytest.mark.parametrize("read_only", [True, False])
def test_a_file_that_is_no_database_is_refused(path: Path, read_only: bool) -> None:
    path.write_text("trial,score\n" * 200)
    with pytest.raises(JobFolderError, match="damaged or no job log"):
        SqliteStore(path, read_only=read_only)


def test_a_truncated_file_is_refused(path: Path) -> None:
    with SqliteStore(path) as store:
        store.begin_run("one")
        for i in range(8):
            store.append("one", "spent", {"seconds": i, "text": "x" * 8000})
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(JobFolderError, match="damaged"):
        SqliteStore(path)
    with pytest.raises(JobFolderError, match="damaged"):
        list(SqliteStore(path, read_only=True).read())


def test_a_folder_in_place_of_the_file_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(JobFolderError):
        SqliteStore(path)


def test_a_missing_entry_is_noticed(written: Path) -> None:
    _execute(written, "DELETE FROM log WHERE number = 3")
    with pytest.raises(JobFolderError, match="entry 3 is missing"):
        list(SqliteStore(written, read_only=True).read())


@pytest.mark.parametrize("text", ["{", "[1]", "NaN"])
def test_damaged_data_is_noticed(written: Path, text: str) -> None:
    _execute(written, "UPDATE log SET data = ? WHERE number = 2", text)
    with pytest.raises(JobFolderError, match="entry 2 of the log is damaged"):
        list(SqliteStore(written, read_only=True).read())


def test_a_lock_that_is_not_released_is_named(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "BUSY_SECONDS", 0.05)
    with SqliteStore(written) as store:
        other = sqlite3.connect(written, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(JobFolderError, match="stayed locked by another process"):
            store.begin_run("two")
        other.execute("ROLLBACK")
        other.close()
        assert store.begin_run("two").number == 5


def test_a_full_disk_is_named_and_leaves_no_half_entry(written: Path) -> None:
    with SqliteStore(written) as store:
        store.begin_run("two")
        with store._engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(JobFolderError, match="cannot be used: database or disk is full"):
            store.append("two", "spent", {"text": "x" * 100_000})
        with store._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
        assert store.append("two", "spent", {"seconds": 2}).number == 6


def test_a_network_file_system_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_store, "file_system_of", lambda _: "nfs4")
    with pytest.raises(JobFolderError, match=r"network file system \(nfs4\)") as caught:
        SqliteStore(path)

    assert "local disk" in str(caught.value.hint)
    assert not path.exists()


def test_a_finished_log_may_be_read_on_a_network_file_system(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "file_system_of", lambda _: "nfs4")
    assert len(list(SqliteStore(written, read_only=True).read())) == 4


def test_threads_may_share_a_store(path: Path) -> None:
    with SqliteStore(path) as store:
        store.begin_run("one")

        def work(number: int) -> None:
            for i in range(10):
                store.append("one", "spent", {"worker": number}, unique=f"{number}/{i}")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [entry.number for entry in store.read()] == list(range(1, 42))


def test_two_openings_of_one_log_take_turns(path: Path) -> None:
    with SqliteStore(path) as one, SqliteStore(path) as two:
        one.begin_run("one")
        two.begin_run("two")
        with pytest.raises(JobFolderError, match="has taken over"):
            one.append("one", "x", {})
        assert two.append("two", "x", {}).number == 3


def test_a_long_log_is_read_in_portions(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_store, "_CHUNK", 4)
    with SqliteStore(path) as store:
        store.begin_run("one")
        for i in range(10):
            store.append("one", "spent", {"seconds": i})
        assert [entry.number for entry in store.read()] == list(range(1, 12))
        assert [entry.number for entry in store.read(after=7)] == [8, 9, 10, 11]


@pytest.mark.parametrize("prefix", ["", "sqlite:///"])
def test_open_store_takes_paths_and_urls(path: Path, prefix: str) -> None:
    with open_store(f"{prefix}{path}") as store:
        assert store.begin_run("one").number == 1
    assert path.is_file()
    with open_store(path, read_only=True) as reader:
        assert len(list(reader.read())) == 1


def test_open_store_refuses_other_databases() -> None:
    with pytest.raises(JobFolderError, match="SQLite files only, got a 'postgresql' URL"):
        open_store("postgresql://host/database")


def test_importing_brings_neither_torch_nor_pandas() -> None:
    modules = "sqlite_store, memory_store, job_log, report, plots, svg, hypervolume, selection"
    code = (
        f"import sys; from autopeft.results import {modules};"
        "print([m for m in ('torch', 'pandas', 'plotly', 'transformers') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "[]", answer.stderr


def _execute(path: Path, statement: str, *values: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement, values)
    connection.close()
