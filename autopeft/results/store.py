"""The seam ``Store``: an append-only log, the only source of truth beside checkpoints."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from autopeft.errors import JobFolderError


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the log.

    Attributes:
        number: Consecutive from 1, without gaps.
        run: Id of the driver run that wrote it.
        kind: What it is, e.g. ``job``, ``run``, ``prepared``, ``proposal``, ``segment``,
            ``measurement``, ``failure``, ``decision``, ``end``.
        data: JSON-able content.
        time: Seconds since the epoch, for people only: no decision reads it.
    """

    number: int
    run: str
    kind: str
    data: Mapping[str, Any]
    time: float


class Store(ABC):
    """Keep the log of one job.

    Contract:
        * ``append`` is atomic and durable when it returns (a power cut keeps it).
        * The log belongs to the newest run: ``begin_run`` makes ``run`` the newest one by
          appending an entry of kind ``run``; an append by an older run, or before any run,
          raises ``JobFolderError`` and writes nothing. A run that was overtaken cannot begin
          again; the newest one may, and nothing is written.
        * ``unique`` names a fact that can be true once, e.g. ``measurement/3/64``: a second
          append under the same name writes nothing and returns the first entry.
        * ``read`` may run in other processes at any time and sees whole entries only.
        * Data is JSON: what ``append`` returns is what ``read`` yields (tuples have become
          lists, floats that are not finite ``None``).
    """

    @abstractmethod
    def begin_run(self, run: str) -> Entry:
        """Take over the log for ``run`` and return the entry that says so."""

    @abstractmethod
    def append(
        self, run: str, kind: str, data: Mapping[str, Any], *, unique: str | None = None
    ) -> Entry:
        """Add one entry and return it."""

    @abstractmethod
    def read(self, after: int = 0) -> Iterator[Entry]:
        """Yield entries numbered above ``after``, in order."""

    def close(self) -> None:  # noqa: B027 -- a store may hold nothing
        """Release what is held; idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def to_text(data: Mapping[str, Any]) -> str:
    """Write one entry's data as JSON; NaN and infinities, which JSON lacks, become null.

    Raises:
        TypeError: a value that JSON cannot hold.
    """
    return json.dumps(_finite(data), allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def from_text(text: str, number: int) -> dict[str, Any]:
    """Read what :func:`to_text` wrote.

    Raises:
        JobFolderError: the text is not a JSON object.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise JobFolderError(f"entry {number} of the log is damaged: {error}") from error
    if not isinstance(data, dict):
        raise JobFolderError(f"entry {number} of the log is damaged: not a JSON object")
    return data


def overtaken(run: str, newest: str | None) -> JobFolderError:
    """Return the error for a run that may not write."""
    if newest is None:
        return JobFolderError(f"run {run!r} may not write: no run has begun on this log")
    return JobFolderError(
        f"run {run!r} may not write: run {newest!r} has taken over this job",
        hint="let the other driver finish, or stop it and resume the job",
    )


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"keys of an entry must be str, got {key!r}")
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
