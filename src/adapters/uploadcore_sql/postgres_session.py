"""Transactions on connections of a pool, for PostgreSQL.

The end of a transaction runs in a task of its own: whoever left the block may be cancelled, or be a mere coroutine that is being destroyed,
and the connection still comes back, clean. Only a commit is waited for; a rollback is nobody's concern any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.util import greenlet_spawn

from uploadcore.errors import DatabaseUnavailableError, UploadCoreError
from uploadcore_sql.postgres_errors import map_exceptions
from uploadcore_sql.records import SqlTransaction
from uploadcore_sql.running import is_one_statement

__all__ = ["PostgresSession", "SingleCall", "Underway"]

P = ParamSpec("P")
T = TypeVar("T")


class Underway:
    """The connections that are lent out, and the transactions that are just being ended."""

    def __init__(self) -> None:
        self.is_closed = False
        self._lent: set[AsyncConnection] = set()
        self._ending: set[asyncio.Future[None]] = set()

    def refuse_if_closed(self) -> None:
        """Raise `DatabaseUnavailableError` after `stop`."""
        if self.is_closed:
            raise DatabaseUnavailableError("the database is closed")

    def lend(self, connection: AsyncConnection) -> None:
        """It belongs to a session now."""
        self._lent.add(connection)

    def end(self, connection: AsyncConnection, end: asyncio.Task[None]) -> None:
        """Its session's end has begun."""
        self._lent.discard(connection)
        self.wait_for(end)

    def wait_for(self, end: asyncio.Future[None]) -> None:
        """Something that gives its connection back by itself, soon."""
        self._ending.add(end)
        end.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Let no statement begin, finish what is ending, cut what is open: the server rolls it back."""
        self.is_closed = True
        while self._ending or self._lent:  # whoever is cut begins to end
            if self._ending:
                await asyncio.wait(self._ending)  # who gives up waiting cancels none of them: they are others' commits
            for connection in list(self._lent):
                self._lent.discard(connection)
                with map_exceptions():
                    await connection.invalidate()

    def _ended(self, end: asyncio.Future[None]) -> None:
        self._ending.discard(end)
        if not end.cancelled():
            end.exception()  # whoever waits for it, raises it; if nobody does, nobody is left to be told


class PostgresSession(AbstractAsyncContextManager[SqlTransaction]):
    """One transaction, from entering to leaving.

    Args:
        engine: Where its connection comes from, and how transactions begin on it.
        underway: Is told of the connection.
        on_commit: Called once a transaction that ran a statement was committed; `None`: nothing is to be committed.
        on_events: Called once events were committed.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        underway: Underway,
        *,
        on_commit: Callable[[], None] | None,
        on_events: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._underway = underway
        self._on_commit = on_commit
        self._on_events = on_events
        self._has_written_events = False
        self._connection: AsyncConnection | None = None
        self._is_used = False
        self._has_failed = False

    async def __aenter__(self) -> SqlTransaction:
        self._underway.refuse_if_closed()
        with map_exceptions():
            connection = await self._engine.connect()
        if self._underway.is_closed:  # meanwhile: nobody else would cut it any more
            with map_exceptions():
                await connection.invalidate()
            await _give_back(connection)
        self._underway.refuse_if_closed()
        self._connection = connection
        self._underway.lend(connection)
        return SqlTransaction(self.run, self._wrote_events)

    async def run(self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `query(connection, …)`, inside the transaction.

        Raises:
            DatabaseUnavailableError: It did not work, or something before it in this transaction did not.
        """
        connection = self._connection
        if connection is None:
            raise RuntimeError("this transaction has ended: what runs after it needs one of its own")
        self._underway.refuse_if_closed()
        if self._has_failed:
            raise DatabaseUnavailableError("a statement before this one failed, and with it its transaction: try again")
        self._is_used = True
        try:
            with map_exceptions():
                return await connection.run_sync(query, *args, **kwargs)
        except UploadCoreError as exc:
            # One the query raised by itself (a conflict, a full quota) leaves the transaction as it was; the server's does not.
            self._has_failed = exc.__cause__ is not None
            raise
        except BaseException:
            self._has_failed = True
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        connection, self._connection = self._connection, None
        assert connection is not None
        is_committing = kind is None and self._is_used and self._on_commit is not None
        end = asyncio.get_running_loop().create_task(self._end(connection, commit=is_committing))
        self._underway.end(connection, end)
        if is_committing:
            await asyncio.shield(end)

    async def _end(self, connection: AsyncConnection, *, commit: bool) -> None:
        try:
            if commit:
                self._underway.refuse_if_closed()
                if self._has_failed:
                    raise DatabaseUnavailableError(
                        "a statement failed, and with it its transaction: nothing was saved; try again"
                    )
                with map_exceptions():
                    await self._commit(connection)
        finally:
            await _give_back(connection)

    async def _commit(self, connection: AsyncConnection) -> None:
        try:
            await connection.commit()
        except BaseException:
            await connection.invalidate()
            raise
        assert self._on_commit is not None
        self._on_commit()
        if self._has_written_events:
            self._on_events()

    def _wrote_events(self) -> None:
        self._has_written_events = True


class SingleCall(AbstractAsyncContextManager[SqlTransaction]):
    """One call. If it is one statement, the server commits it by itself, and no round trip is needed to begin or to end; else it gets a transaction.

    Args:
        alone: Where its connection comes from, if so.
        engine: Where it comes from otherwise.
        underway: Is told of the connection.
        on_commit: Called once something was committed; `None`: nothing is to be committed.
        on_events: Called once events were committed.
    """

    def __init__(
        self,
        alone: Engine,
        engine: AsyncEngine,
        underway: Underway,
        *,
        on_commit: Callable[[], None] | None,
        on_events: Callable[[], None],
    ) -> None:
        self._alone = alone
        self._underway = underway
        self._on_commit = on_commit
        self._on_events = on_events
        self._session = PostgresSession(engine, underway, on_commit=on_commit, on_events=on_events)
        self._is_used = False

    async def __aenter__(self) -> SqlTransaction:
        return SqlTransaction(self.run, self._on_events)  # told when the call has returned, and so was committed

    async def run(self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `query(connection, …)`, and commit what it does.

        Raises:
            DatabaseUnavailableError: It did not work; whether it was done is not known.
        """
        if self._is_used:
            raise RuntimeError("a transaction of a single call takes no other, and none after its end")
        self._is_used = True
        if not is_one_statement(query):
            async with self._session:
                return await self._session.run(query, *args, **kwargs)

        def call() -> T:
            with self._alone.connect() as connection:
                return query(connection, *args, **kwargs)

        self._underway.refuse_if_closed()
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._underway.wait_for(end)
        try:
            with map_exceptions():
                result = await greenlet_spawn(call)
        finally:
            end.set_result(None)
        if self._on_commit is not None:
            self._on_commit()
        return result

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_used = True


async def _give_back(connection: AsyncConnection) -> None:
    """Roll back what is open, and return it to the pool; a connection that can't be rolled back is dropped."""
    try:
        await connection.close()
    except (SQLAlchemyError, OSError):
        await connection.invalidate()
