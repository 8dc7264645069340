"""The database port in SQL: one class, and what it does by the URL's scheme."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from uploadcore.errors import InvalidRequestError
from uploadcore.ports import AdapterContext, Transaction
from uploadcore_sql.postgres_url import SCHEMES
from uploadcore_sql.schema import SchemaState
from uploadcore_sql.sqlite import SqliteBackend

__all__ = ["SqlDatabase", "from_url"]


def from_url(url: str, context: AdapterContext) -> SqlDatabase:
    """The database for `sqlite:///path` or `postgresql://user:password@host/name`. Opens nothing.

    Raises:
        InvalidRequestError: The URL can't be used.
        ImportError: The driver it needs is not installed.
    """
    del context
    return SqlDatabase(url)


class _Backend(Protocol):
    """What is different for each database."""

    write_transactions: int

    @property
    def clock_offset(self) -> timedelta | None: ...

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    def transaction(self, *, single: bool = False) -> AbstractAsyncContextManager[Transaction]: ...
    def reader(self, *, single: bool = False) -> AbstractAsyncContextManager[Transaction]: ...
    async def installation_id(self) -> str: ...
    async def events_written(self, timeout: timedelta) -> None: ...  # noqa: ASYNC109
    async def schema(self) -> SchemaState: ...
    async def migrate(self) -> SchemaState: ...


class SqlDatabase:
    """The source of truth, in an SQLite file or on a PostgreSQL server.

    SQLite: durable (WAL with `synchronous=FULL`), for any number of processes on one machine. Transactions are written one after the other by
    one thread; each reader sees one consistent snapshot, and neither waits for the other.

    PostgreSQL: for any number of processes anywhere. Transactions run side by side, `READ COMMITTED`, each on a connection of a bounded pool.

    Args:
        url: `sqlite:///relative/path`, `sqlite:////absolute/path` (folders are made as needed), or
            `postgresql://user:password@host:port/name?option=value`. `%` escapes are decoded. `docs/database.md` lists the options.
        readers: SQLite: reader connections, each with a thread: how many readers work at a time.
        patience: SQLite: how long a transaction or reader waits for its turn, and again for another process's write lock,
            before `DatabaseUnavailableError`. On PostgreSQL the URL says so.

    Raises:
        InvalidRequestError: The URL can't be used.
        ImportError: It is PostgreSQL's, and the driver is not installed.

    Attributes:
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
        self._backend = _backend(url, readers, patience)

    def __repr__(self) -> str:
        """Name the file, or server and database."""
        return f"{type(self).__name__}({str(self._backend)!r})"

    @property
    def path(self) -> Path:
        """SQLite: the file; beside it lie `-wal` and `-shm` while it is open.

        Raises:
            AttributeError: It is no file.
        """
        if not isinstance(self._backend, SqliteBackend):
            raise AttributeError("a database on a server has no path")  # noqa: TRY004 - what `hasattr` understands
        return self._backend.path

    @property
    def write_transactions(self) -> int:
        """How many transactions were committed since it was made."""
        return self._backend.write_transactions

    async def open(self) -> None:
        """Connect. SQLite: bring the schema up to date; of several processes one migrates, and the others wait for it, up to 30 s.

        Raises:
            DatabaseUnavailableError: It can't be used; or its schema is newer than this code, or (PostgreSQL) older.
        """
        await self._backend.open()

    async def close(self) -> None:
        """Roll back what is open, let go of everything. Idempotent."""
        await self._backend.close()

    def transaction(self, *, single: bool = False) -> AbstractAsyncContextManager[Transaction]:
        """Begin, commit on leaving, roll back on any exception, cancellation included.

        Inside one, wait for nothing but the database. If the caller is cancelled while it commits, it is committed.

        Args:
            single: There will be one call, and nothing after it that may fail. On PostgreSQL it is committed with its statement, where it
                needs but one: a third of the round trips. If the caller is cancelled during the call, it may have been.

        Raises:
            DatabaseUnavailableError: No turn or connection in time; on entering, inside, or on commit, where the outcome is then unknown.
            VersionConflictError: PostgreSQL: inside, or on commit, where another transaction was in the way and this one was undone.
        """
        return self._backend.transaction(single=single)

    def reader(self, *, single: bool = False) -> AbstractAsyncContextManager[Transaction]:
        """One consistent view: the database as it was at the first read.

        Nothing is to be written through it. That fails, on PostgreSQL except with `single`, which begins no transaction that could forbid it.
        """
        return self._backend.reader(single=single)

    async def installation_id(self) -> str:
        """Made once, by the first migration."""
        return await self._backend.installation_id()

    async def events_written(self, timeout: timedelta) -> None:  # noqa: ASYNC109 - as the port has it
        """Wait until events may have been written since this last returned, or so long.

        By this process; on PostgreSQL also by another: from the first call on, a connection of its own listens for that (not with
        `pooler=transaction`), and losing it costs no more than the wait.
        """
        await self._backend.events_written(timeout)

    async def schema(self) -> SchemaState:
        """How far the schema is, and what is missing. Needs no `open`; changes nothing.

        Raises:
            DatabaseUnavailableError: It can't be asked.
        """
        return await self._backend.schema()

    @property
    def clock_offset(self) -> timedelta | None:
        """How far the database's clock is ahead of this process's; `None`: it is the same one, or not known yet."""
        return self._backend.clock_offset

    async def migrate(self) -> SchemaState:
        """Bring the schema up to date; return how far it was before. Needs no `open`. Safe for any number of processes at once.

        Raises:
            DatabaseUnavailableError: It can't be done; what was done before the failure, up to a whole revision, stays.
        """
        return await self._backend.migrate()


def _backend(url: str, readers: int, patience: timedelta) -> _Backend:
    scheme, separator, _ = url.partition("://")
    if scheme == "sqlite" and separator:
        return SqliteBackend(url, readers=readers, patience=patience)
    if scheme in SCHEMES:
        from uploadcore_sql.postgres import PostgresBackend  # noqa: PLC0415 - SQLite goes on working without the driver

        return PostgresBackend(url)
    raise InvalidRequestError(
        f"{scheme!r} is no database of uploadcore_sql: it takes sqlite:///path or postgresql://user:password@host/name"
        if separator
        else "the database's URL has no scheme: uploadcore_sql takes sqlite:///path or postgresql://user:password@host/name"
    )
