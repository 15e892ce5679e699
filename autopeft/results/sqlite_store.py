"""The log of a job in one SQLite file.

WAL mode with ``synchronous=FULL``: a commit is on the disk when ``append`` returns, and other
processes read while the driver writes. An append is one ``BEGIN IMMEDIATE`` transaction that
reads the last row, which tells both the next number and the newest run, and adds one.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import NullPool, QueuePool

from autopeft.errors import JobFolderError
from autopeft.results.file_systems import file_system_of, is_network
from autopeft.results.store import Entry, Store, from_text, overtaken, to_text

SCHEMA_VERSION = 1
BUSY_SECONDS = 30.0
_CHUNK = 500

_metadata = sa.MetaData()
_meta = sa.Table(
    "meta",
    _metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
_log = sa.Table(
    "log",
    _metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("run", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("fact", sa.Text, unique=True),
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("time", sa.Float, nullable=False),
)
_LAST = sa.select(_log.c.number, _log.c.run).order_by(_log.c.number.desc()).limit(1)


class SqliteStore(Store):
    """Keep the log in a SQLite file.

    One process writes at a time (fencing sees to it, the file lock to the rest); any number
    may read. Threads may share a store.

    Args:
        path: The file; its folder must exist.
        read_only: Never write, never create: for looking at a job, running or not.
        create: Whether a file that is absent is created (not when ``read_only``).

    Raises:
        JobFolderError: the file is absent, foreign, damaged, of a newer schema, in use, or on
            a network file system (WAL needs memory shared by all processes).
    """

    def __init__(self, path: Path, *, read_only: bool = False, create: bool = True) -> None:
        self.path = Path(path)
        self.read_only = read_only
        exists = self.path.is_file()
        if not exists and (read_only or not create or not self.path.parent.is_dir()):
            raise JobFolderError(
                f"no job log at {self.path}",
                hint="name the folder of a job, or start one: autopeft search JOB.yaml",
            )
        self._refuse_network()
        self._engine = sa.create_engine(
            "sqlite+pysqlite://",
            creator=self._connect,
            poolclass=NullPool if read_only else QueuePool,
            isolation_level="AUTOCOMMIT",
        )
        try:
            with self._errors(), self._engine.connect() as connection:
                self._open(connection)
        except BaseException:
            self.close()
            raise

    def begin_run(self, run: str) -> Entry:
        """Take over the log for ``run`` and return the entry that says so."""
        data = {"pid": os.getpid(), "host": socket.gethostname()}
        with self._transaction() as connection:
            number, newest = _last(connection)
            begun = connection.execute(
                sa.select(_log).where(_log.c.run == run).order_by(_log.c.number).limit(1)
            ).first()
            if begun is None:
                return _insert(connection, number + 1, run, "run", to_text(data), None)
            if newest != run:
                raise overtaken(run, newest)
            return _entry(begun)

    def append(
        self, run: str, kind: str, data: Mapping[str, Any], *, unique: str | None = None
    ) -> Entry:
        """Add one entry and return it; a known ``unique`` fact returns its first entry."""
        text = to_text(data)
        with self._transaction() as connection:
            number, newest = _last(connection)
            if newest != run:
                raise overtaken(run, newest)
            if unique is not None:
                first = connection.execute(sa.select(_log).where(_log.c.fact == unique)).first()
                if first is not None:
                    return _entry(first)
            return _insert(connection, number + 1, run, kind, text, unique)

    def read(self, after: int = 0) -> Iterator[Entry]:
        """Yield entries numbered above ``after``, in order.

        Reads in portions, so that a slow consumer keeps no transaction open.
        """
        position = max(0, after)
        while True:
            statement = (
                sa.select(_log)
                .where(_log.c.number > position)
                .order_by(_log.c.number)
                .limit(_CHUNK)
            )
            rows = self._select(statement)
            for row in rows:
                if row.number != position + 1:
                    raise JobFolderError(
                        f"{self.path} is damaged: entry {position + 1} is missing",
                        hint="restore the file from a copy",
                    )
                position += 1
                yield _entry(row)
            if len(rows) < _CHUNK:
                return

    def close(self) -> None:
        """Release the file; idempotent."""
        self._engine.dispose()

    def _select(self, statement: sa.Select[Any]) -> list[sa.Row[Any]]:
        """Return the rows, read again where a settled file changed under a reader."""
        while True:
            before = self._stamp()
            try:
                with self._errors(), self._engine.connect() as connection:
                    rows = list(connection.execute(statement).all())
            except JobFolderError:
                if not self.read_only or self._stamp() == before:
                    raise
            else:
                if not self.read_only or self._stamp() == before:
                    return rows

    def _connect(self) -> sqlite3.Connection:
        # A reader of a log that nobody has open reads the plain file: SQLite would leave two
        # empty side files behind, or fail where the folder cannot be written.
        mode = "rwc" if not self.read_only else "ro&immutable=1" if self._is_settled() else "ro"
        connection = sqlite3.connect(
            f"{self.path.resolve().as_uri()}?mode={mode}",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    def _open(self, connection: sa.Connection) -> None:
        tables = set(
            connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type='table'")
            .scalars()
            .all()
        )
        if not tables:
            if self.read_only:
                raise JobFolderError(
                    f"the job log at {self.path} is still empty",
                    hint="resume the job: autopeft resume DIR",
                )
            self._create(connection)
        elif not {"meta", "log"} <= tables:
            raise self._foreign()
        self._check_schema(connection)
        if self.read_only:
            return
        mode = connection.exec_driver_sql("PRAGMA journal_mode=WAL").scalar()
        if mode != "wal":
            raise JobFolderError(
                f"{self.path}: this file system does not allow SQLite's WAL mode (got {mode!r})",
                hint="put the job's output folder on a local disk",
            )
        findings = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if findings != "ok":
            raise self._damaged(str(findings))

    def _create(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            # Another process may have been faster: create what is absent only.
            _metadata.create_all(connection, checkfirst=True)
            known = connection.execute(sa.select(_meta.c.value)).first()
            if known is None:
                rows = {"format": "autopeft-log", "schema_version": str(SCHEMA_VERSION)}
                connection.execute(
                    sa.insert(_meta), [{"key": key, "value": value} for key, value in rows.items()]
                )
        except BaseException:
            connection.connection.rollback()
            raise
        connection.exec_driver_sql("COMMIT")
        _sync_folder(self.path.parent)

    def _check_schema(self, connection: sa.Connection) -> None:
        rows = connection.execute(sa.select(_meta.c.key, _meta.c.value)).all()
        facts: dict[str, str] = {row.key: row.value for row in rows}
        version = facts.get("schema_version", "")
        if facts.get("format") != "autopeft-log" or not version.isdecimal():
            raise self._foreign()
        if int(version) > SCHEMA_VERSION:
            raise JobFolderError(
                f"{self.path} has schema version {version}, this AutoPEFT reads up to "
                f"{SCHEMA_VERSION}",
                hint="update AutoPEFT: pip install --upgrade autopeft",
            )

    def _refuse_network(self) -> None:
        kind = file_system_of(self.path)
        if is_network(kind) and not (self.read_only and self._is_settled()):
            raise JobFolderError(
                f"{self.path} is on a network file system ({kind}), where SQLite cannot keep a "
                "log safely",
                hint="choose an output folder on a local disk, e.g. --output /tmp/run",
            )

    def _is_settled(self) -> bool:
        """Return whether everything written is in the file itself, none in the ``-wal``."""
        wal = self.path.with_name(self.path.name + "-wal")
        return not wal.exists() or wal.stat().st_size == 0

    def _stamp(self) -> tuple[int, int]:
        state = self.path.stat()
        return state.st_mtime_ns, state.st_size

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """Hold the write lock; commit at the end, roll back on any error."""
        if self.read_only:
            raise JobFolderError(f"{self.path} was opened for reading only")
        with self._errors(), self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.connection.rollback()
                raise
            connection.exec_driver_sql("COMMIT")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Say in the user's words what SQLite says in its own."""
        try:
            yield
        except (sa.exc.DBAPIError, sqlite3.Error) as error:
            cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
            text = str(cause)
            if "not a database" in text or "malformed" in text or "no such" in text:
                raise self._damaged(text) from error
            if "locked" in text or "busy" in text:
                raise JobFolderError(
                    f"{self.path} stayed locked by another process for {BUSY_SECONDS:g} s",
                    hint="stop the program that holds it, then resume the job",
                ) from error
            raise JobFolderError(
                f"the job log at {self.path} cannot be used: {text}",
                hint="check that the disk has space and that the folder is yours to write",
            ) from error

    def _foreign(self) -> JobFolderError:
        return JobFolderError(
            f"{self.path} is a SQLite file, but no job log of AutoPEFT",
            hint="name the folder of a job, as given under `output` in its job file",
        )

    def _damaged(self, finding: str) -> JobFolderError:
        return JobFolderError(
            f"{self.path} is damaged or no job log: {finding}",
            hint="restore the file from a copy, or start the job in another folder",
        )


def open_store(location: str | Path, *, read_only: bool = False, create: bool = True) -> Store:
    """Open the log at a path or URL: ``runs/sst2/log.sqlite`` or ``sqlite:///absolute/path``.

    Raises:
        JobFolderError: see :class:`SqliteStore`; also for a URL of another database.
    """
    text = str(location)
    scheme, separator, rest = text.partition("://")
    if isinstance(location, Path) or not separator:
        return SqliteStore(Path(text), read_only=read_only, create=create)
    if scheme != "sqlite":
        raise JobFolderError(
            f"this AutoPEFT keeps job logs in SQLite files only, got a {scheme!r} URL",
            hint="give a path on a local disk",
        )
    # As in SQLAlchemy: three slashes before a relative path, four before an absolute one.
    return SqliteStore(Path(rest.removeprefix("/")), read_only=read_only, create=create)


def _last(connection: sa.Connection) -> tuple[int, str | None]:
    row = connection.execute(_LAST).first()
    return (row.number, row.run) if row is not None else (0, None)


def _insert(
    connection: sa.Connection, number: int, run: str, kind: str, text: str, fact: str | None
) -> Entry:
    now = time.time()
    connection.execute(
        sa.insert(_log).values(number=number, run=run, kind=kind, fact=fact, data=text, time=now)
    )
    return Entry(number=number, run=run, kind=kind, data=from_text(text, number), time=now)


def _entry(row: sa.Row[Any]) -> Entry:
    data = from_text(row.data, row.number)
    return Entry(number=row.number, run=row.run, kind=row.kind, data=data, time=row.time)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
