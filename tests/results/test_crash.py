"""A driver that is killed: nothing acknowledged is lost, nothing is there by half."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from autopeft.errors import JobFolderError
from autopeft.results.sqlite_store import SqliteStore

#: Appends for ever and says so on its output, after each append has returned.
CHILD = """
import sys
from pathlib import Path
from autopeft.results.sqlite_store import SqliteStore

store = SqliteStore(Path(sys.argv[1]))
run = sys.argv[2]
store.begin_run(run)
print("begun", flush=True)
number = 0
while True:
    data = {"number": number, "text": "x" * (number % 700), "check": number * 7}
    store.append(run, "measurement", data, unique=f"{run}/{number}")
    print(number, flush=True)
    number += 1
"""


def kill_after(path: Path, run: str, num_appends: int) -> int:
    """Kill a child with SIGKILL once it acknowledged ``num_appends``; return what it said last."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), run], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    last = -1
    for line in child.stdout:
        if line.strip().isdecimal():
            last = int(line)
        if last + 1 >= num_appends:
            break
    child.send_signal(signal.SIGKILL)
    for line in child.stdout:  # what it acknowledged before it died
        if line.endswith("\n") and line.strip().isdecimal():
            last = int(line)
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL
    return last


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sigkill_loses_nothing_and_halves_nothing(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "log.sqlite"
    last = kill_after(path, "one", random.Random(seed).randint(1, 60))

    with SqliteStore(path, read_only=True) as reader:
        seen = list(reader.read())
    with SqliteStore(path) as store:
        entries = list(store.read())
        assert entries == seen
        assert [entry.number for entry in entries] == list(range(1, len(entries) + 1))
        numbers = [int(entry.data["number"]) for entry in entries[1:]]
        assert numbers == list(range(len(numbers)))
        # At most one append was on the disk before its acknowledgement was out.
        assert len(numbers) - (last + 1) in (0, 1)
        assert all(entry.data["check"] == entry.data["number"] * 7 for entry in entries[1:])
        # The successor writes on; the dead run cannot.
        assert store.begin_run("two").number == len(entries) + 1
        with pytest.raises(JobFolderError, match="'two' has taken over"):
            store.append("one", "measurement", {"number": 0})


def test_a_live_driver_that_was_overtaken_cannot_write(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    waiting = CHILD.replace("while True:", "while input() is not None:")
    child = subprocess.Popen(
        [sys.executable, "-c", waiting, str(path), "one"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    child.stdin.write("go\n")
    child.stdin.flush()
    assert child.stdout.readline() == "0\n"
    with SqliteStore(path) as store:
        assert store.begin_run("two").number == 3
        _, errors = child.communicate("go\n", timeout=30)
        assert child.returncode == 1
        assert "run 'one' may not write: run 'two' has taken over" in errors
        assert [entry.run for entry in store.read()] == ["one", "one", "two"]
