"""A store in memory: for tests, simulations and searches that nobody wants to keep."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from autopeft.results.store import Entry, Store, from_text, overtaken, to_text


class MemoryStore(Store):
    """Keep the log in a list; everything of the contract but durability holds.

    Threads of one process may share it as long as one of them writes.

    Args:
        clock: Gives entries their time; of a simulation, virtual seconds since it began.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self._entries: list[Entry] = []
        self._facts: dict[str, Entry] = {}

    def begin_run(self, run: str) -> Entry:
        """Take over the log for ``run`` and return the entry that says so."""
        newest = self._newest_run()
        begun = [entry for entry in self._entries if entry.run == run]
        if begun:
            if run != newest:
                raise overtaken(run, newest)
            return begun[0]
        return self._add(run, "run", {"pid": os.getpid(), "host": socket.gethostname()})

    def append(
        self, run: str, kind: str, data: Mapping[str, Any], *, unique: str | None = None
    ) -> Entry:
        """Add one entry and return it; a known ``unique`` fact returns its first entry."""
        if run != self._newest_run():
            raise overtaken(run, self._newest_run())
        if unique is not None and unique in self._facts:
            return self._facts[unique]
        entry = self._add(run, kind, data)
        if unique is not None:
            self._facts[unique] = entry
        return entry

    def read(self, after: int = 0) -> Iterator[Entry]:
        """Yield entries numbered above ``after``, in order."""
        yield from self._entries[max(0, after) :]

    def _newest_run(self) -> str | None:
        return self._entries[-1].run if self._entries else None

    def _add(self, run: str, kind: str, data: Mapping[str, Any]) -> Entry:
        number = len(self._entries) + 1
        plain = from_text(to_text(data), number)
        entry = Entry(number=number, run=run, kind=kind, data=plain, time=self.clock())
        self._entries.append(entry)
        return entry
