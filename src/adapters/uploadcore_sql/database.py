"""The database port on SQLite: one thread that writes, a few that read."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from functools import partial
from pathlib import Path
from urllib.parse import unquote

from sqlalchemy import Engine, NullPool, create_engine

from uploadcore.errors import DatabaseUnavailableError, InvalidRequestError
from uploadcore.ports import AdapterContext, Transaction
from uploadcore_sql.connection_thread import ConnectionThread
from uploadcore_sql.errors import once_free
from uploadcore_sql.schema import bring_up_to_date
from uploadcore_sql.session import ConnectionPool, Session

__all__ = ["SqlDatabase", "from_url"]

OPENING_PATIENCE = 30.0
"""Seconds to wait for another process that opens, or migrates, the same file."""


def from_url(url: str, context: AdapterContext) -> SqlDatabase:
    """The database for `sqlite:///relative/path` or `sqlite:////absolute/path`. Opens nothing.

    Raises:
        InvalidRequestError: The URL names no file.
    """
    del context
    return SqlDatabase(url)


class SqlDatabase:
    """The source of truth, in one SQLite file, shared by any number of processes on one machine.

    Durable: WAL with `synchronous=FULL`. Transactions are written one after the other by one thread (`BEGIN IMMEDIATE`); each reader sees
    one consistent snapshot, and neither waits for the other.

    Args:
        url: `sqlite:///relative/path` or `sqlite:////absolute/path`; `%` escapes are decoded. Folders are made as needed.
        readers: Reader connections, each with a thread: how many readers work at a time.
        patience: How long a transaction or reader waits for its turn, and again for another process's write lock,
            before `DatabaseUnavailableError`.

    Raises:
        InvalidRequestError: The URL names no file.

    Attributes:
        path: The file; beside it lie `-wal` and `-shm` while it is open.
        write_transactions: How many transactions were committed since it was made.

    Example:
        >>> import asyncio, tempfile
        >>> async def main(folder: str) -> int:
        ...     database = SqlDatabase(f"sqlite:///{folder}/uploads.db")
        ...     await database.open()
        ...     try:
        ...         async with database.transaction() as tx:
        ...             await tx.quotas.reserve("u_1", size=10, max_uploads=5, max_bytes=None)
        ...     finally:
        ...         await database.close()
        ...     return database.write_transactions
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     asyncio.run(main(folder))
        1
    """

    def __init__(self, url: str, *, readers: int = 4, patience: timedelta = timedelta(seconds=5)) -> None:
        if readers < 1:
            raise InvalidRequestError(f"a database needs one reader or more, not {readers}")
        self.path = _path_of(url)
        self.write_transactions = 0
        self._readers = readers
        self._patience = patience.total_seconds()
        self._installation_id: str | None = None
        self._writing: ConnectionPool | None = None
        self._reading: ConnectionPool | None = None

    def __repr__(self) -> str:
        """Name the file."""
        return f"{type(self).__name__}({str(self.path)!r})"

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
        try:
            self._installation_id = await writer.submit(partial(bring_up_to_date, patience=OPENING_PATIENCE))
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

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin, commit on leaving, roll back on any exception, cancellation included.

        Transactions take turns: inside one, wait for nothing but the database. If the caller is cancelled while it commits, it is
        committed.

        Raises:
            DatabaseUnavailableError: No turn in time; on entering, inside, or on commit, where the outcome is then unknown.
        """
        return Session(self._opened(self._writing), on_commit=self._count)

    def reader(self) -> AbstractAsyncContextManager[Transaction]:
        """One consistent view: the database as it was at the first read. Writing through it fails."""
        return Session(self._opened(self._reading), on_commit=None)

    async def installation_id(self) -> str:
        """Made once, by the first migration."""
        if self._installation_id is None:
            raise DatabaseUnavailableError("the database is not open")
        return self._installation_id

    def _count(self) -> None:
        self.write_transactions += 1

    @staticmethod
    def _opened(pool: ConnectionPool | None) -> ConnectionPool:
        if pool is None:
            raise DatabaseUnavailableError("the database is not open")
        return pool

    def _connect(self, set_up: Callable[[sqlite3.Connection], None]) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise DatabaseUnavailableError(f"the folder of {self.path} can't be made: {exc.strerror}") from exc
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
    return create_engine("sqlite+pysqlite://", creator=connect, poolclass=NullPool, hide_parameters=True)


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
