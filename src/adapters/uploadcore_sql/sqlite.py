"""SQLite: one thread that writes, a few that read."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from urllib.parse import unquote

from sqlalchemy import Connection, Engine, NullPool, create_engine

from uploadcore.errors import DatabaseUnavailableError, InvalidRequestError
from uploadcore.ports import Transaction
from uploadcore.system import SystemClock
from uploadcore.waking import woken
from uploadcore_sql.connection_thread import ConnectionThread
from uploadcore_sql.errors import map_exceptions, once_free
from uploadcore_sql.schema import SchemaState, installation_of, migrate, schema_state
from uploadcore_sql.session import ConnectionPool, Session
from uploadcore_sql.text import refuse_nul

__all__ = ["SqliteBackend"]

OPENING_PATIENCE = 30.0
"""Seconds to wait for another process that opens, or migrates, the same file."""


class SqliteBackend:
    """One SQLite file, shared by any number of processes on one machine.

    Args:
        url: `sqlite:///relative/path` or `sqlite:////absolute/path`; `%` escapes are decoded. Folders are made as needed.
        readers: Reader connections, each with a thread: how many readers work at a time.
        patience: How long a transaction or reader waits for its turn, and again for another process's write lock.

    Raises:
        InvalidRequestError: The URL names no file.
    """

    def __init__(self, url: str, *, readers: int, patience: timedelta) -> None:
        if readers < 1:
            raise InvalidRequestError(f"a database needs one reader or more, not {readers}")
        self.path = _path_of(url)
        self.write_transactions = 0
        self._readers = readers
        self._patience = patience.total_seconds()
        self._installation_id: str | None = None
        self._events_written = asyncio.Event()
        self._writing: ConnectionPool | None = None
        self._reading: ConnectionPool | None = None

    def __str__(self) -> str:
        """Name the file."""
        return str(self.path)

    async def open(self) -> None:
        """Connect, and bring the schema up to date.

        Safe for several processes at once: one migrates, in one transaction; the others wait for it, up to 30 s.

        Raises:
            DatabaseUnavailableError: The file can't be used, or its schema is newer than this code.
        """
        writer = ConnectionThread(
            _engine(partial(self._connect, _as_writer)), name="uploadcore-sql-writer", begin="BEGIN IMMEDIATE"
        )
        self._writing = ConnectionPool([writer], wait=self._patience, what="turn to write")
        self._events_written = asyncio.Event()  # of this event loop
        try:
            await writer.submit(bring_up_to_date)
            self._installation_id = await writer.submit(_installation)
            engine = _engine(partial(self._connect, _as_reader))
            readers = [
                ConnectionThread(engine, name=f"uploadcore-sql-reader-{number}", begin="BEGIN")
                for number in range(1, self._readers + 1)
            ]
            self._reading = ConnectionPool(readers, wait=self._patience, what="reader")
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Do what is queued, roll back what is open, end all threads. Idempotent."""
        for pool in (self._reading, self._writing):
            for thread in () if pool is None else pool.threads:
                await thread.stop()

    def transaction(self, *, single: bool = False) -> AbstractAsyncContextManager[Transaction]:
        """Begin, commit on leaving, roll back on any exception, cancellation included.

        Transactions take turns: inside one, wait for nothing but the database. If the caller is cancelled while it commits, it is
        committed.

        Raises:
            DatabaseUnavailableError: No turn in time; on entering, inside, or on commit, where the outcome is then unknown.
        """
        del single  # a trip to the thread is no round trip to a server
        return Session(self._opened(self._writing), on_commit=self._count, on_events=self._events_written.set)

    def reader(self, *, single: bool = False) -> AbstractAsyncContextManager[Transaction]:
        """One consistent view: the database as it was at the first read. Writing through it fails."""
        del single
        return Session(self._opened(self._reading), on_commit=None, on_events=self._events_written.set)

    @property
    def clock_offset(self) -> timedelta | None:
        """None: it is this machine's clock."""
        return None

    async def installation_id(self) -> str:
        """Made once, by the first migration."""
        if self._installation_id is None:
            raise DatabaseUnavailableError("the database is not open")
        return self._installation_id

    async def events_written(self, timeout: timedelta) -> None:  # noqa: ASYNC109 - as the port has it
        """Wait until this process has written events since this last returned, or so long. Of other processes nothing is heard."""
        await woken(self._events_written, SystemClock(), timeout)

    async def schema(self) -> SchemaState:
        """How far the schema is. A file that is not there is not made."""
        if not self.path.exists():
            with create_engine("sqlite://").connect() as connection:
                return schema_state(connection)
        return await asyncio.to_thread(self._with_connection, schema_state, _as_reader)

    async def migrate(self) -> SchemaState:
        """Bring the schema up to date; return how far it was before."""
        return await asyncio.to_thread(self._with_connection, bring_up_to_date, _as_writer)

    def _with_connection(
        self, work: Callable[[Connection], SchemaState], set_up: Callable[[sqlite3.Connection], None]
    ) -> SchemaState:
        engine = _engine(partial(self._connect, set_up))
        with map_exceptions(), engine.connect() as connection:
            return work(connection)

    def _count(self) -> None:
        self.write_transactions += 1

    @staticmethod
    def _opened(pool: ConnectionPool | None) -> ConnectionPool:
        if pool is None:
            raise DatabaseUnavailableError("the database is not open")
        return pool

    def _connect(self, set_up: Callable[[sqlite3.Connection], None]) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise DatabaseUnavailableError(f"the folder of {self.path} can't be made: {exc.strerror}") from exc
        # SQLite would make it for all to read; its further files get the permissions of this one. Only where there is none: closing a
        # descriptor of a database that is in use would drop this process's locks on it (sqlite.org/howtocorrupt.html, section 2.2).
        with suppress(OSError):
            self.path.touch(mode=0o600, exist_ok=False)
        # isolation_level None: the driver begins nothing by itself.
        connection = sqlite3.connect(self.path, timeout=self._patience, isolation_level=None)
        try:
            # Where another process is just making the file, entering WAL fails at once, without the usual wait.
            once_free(lambda: set_up(connection), patience=OPENING_PATIENCE)
        except BaseException:
            connection.close()
            raise
        return connection


def _engine(connect: Callable[[], sqlite3.Connection]) -> Engine:
    # hide_parameters: values, addresses among them, stay out of error messages.
    engine = create_engine("sqlite+pysqlite://", creator=connect, poolclass=NullPool, hide_parameters=True)
    refuse_nul(engine)
    return engine


def bring_up_to_date(connection: Connection) -> SchemaState:
    """Migrate if need be, in one transaction under the database's write lock; return how far the schema was before.

    Any number of processes may do this at once: the first to get the lock migrates, the others find it done.

    Args:
        connection: In no transaction; left in none.

    Raises:
        DatabaseUnavailableError: The schema is newer than this code, and does not say that this code can work on it.
    """
    state = schema_state(connection)
    connection.rollback()
    if state.missing:
        once_free(lambda: _begin(connection), patience=OPENING_PATIENCE)
        state = schema_state(connection)
        if state.missing:
            migrate(connection)
        connection.commit()
    return state


def _begin(connection: Connection) -> None:
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    except BaseException:
        connection.rollback()  # of what SQLAlchemy takes to have begun
        raise


def _installation(connection: Connection) -> str:
    made = installation_of(connection)
    connection.rollback()
    return made


def _as_writer(connection: sqlite3.Connection) -> None:
    _as_any(connection)
    if connection.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
        raise DatabaseUnavailableError(
            "the database's file system does not share memory between connections: put it on a local disk"
        )


def _as_reader(connection: sqlite3.Connection) -> None:
    _as_any(connection)
    connection.execute("PRAGMA query_only = ON")


def _as_any(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    # For macOS, whose plain fsync leaves the bytes in the drive's cache.
    connection.execute("PRAGMA fullfsync = ON")


def _path_of(url: str) -> Path:
    """The file a URL names.

    >>> _path_of("sqlite:////var/lib/my%20uploads.db").as_posix()
    '/var/lib/my uploads.db'
    """
    scheme, separator, rest = url.partition("://")
    if scheme != "sqlite" or not separator:
        raise InvalidRequestError(f"{scheme!r} is no database of uploadcore_sql: it takes sqlite:///path")
    if not rest.startswith("/"):
        raise InvalidRequestError("sqlite:// takes no host: write sqlite:///relative/path or sqlite:////absolute/path")
    if "?" in rest:
        raise InvalidRequestError("sqlite:///path takes no options after a '?' (in a path, write it as %3F)")
    path = unquote(rest[1:])
    if path in {"", ":memory:"} or path.startswith("file:"):
        raise InvalidRequestError(
            "sqlite:///path needs the path of a file: a database in memory can't be shared by connections "
            "(for tests there is memory://)"
        )
    return Path(path).absolute()
