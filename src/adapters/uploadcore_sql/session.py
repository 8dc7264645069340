"""Transactions on a connection that lives in a thread.

A transaction begins with its first statement, in the same trip to the thread: one that runs a single statement costs two trips, one for the
statement and one for the commit. As the thread does everything in order, a transaction lets the next one in as soon as its end is
queued, and never needs to wait for its own rollback: that makes it safe to be cancelled anywhere.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import Concatenate, ParamSpec, TypeVar, cast

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from uploadcore.errors import DatabaseUnavailableError, UploadCoreError
from uploadcore_sql.connection_thread import ConnectionThread
from uploadcore_sql.records import SqlTransaction

__all__ = ["ConnectionPool", "Session"]

P = ParamSpec("P")
T = TypeVar("T")


class ConnectionPool:
    """Connection threads, each lent to one session at a time; who waits is served in order, and not for ever.

    Args:
        threads: At least one.
        wait: Seconds to wait for one of them.
        what: What they are, for the error.
    """

    def __init__(self, threads: list[ConnectionThread], *, wait: float, what: str) -> None:
        self.threads = tuple(threads)
        self._idle = threads
        self._waiting: deque[asyncio.Future[ConnectionThread]] = deque()
        self._wait = wait
        self._what = what

    async def take(self) -> ConnectionThread:
        """A thread nobody else has.

        Raises:
            DatabaseUnavailableError: None came free in time.
        """
        if self._idle:  # then nobody waits: `give_back` hands on
            return self._idle.pop()
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[ConnectionThread] = loop.create_future()
        self._waiting.append(turn)
        alarm = loop.call_later(self._wait, self._give_up, turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.give_back(turn.result())  # it came in the same moment
            raise
        finally:
            alarm.cancel()

    def give_back(self, thread: ConnectionThread) -> None:
        """Hand it to the next in line. What was queued to the thread before is done before."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(thread)
                return
        self._idle.append(thread)

    def _give_up(self, turn: asyncio.Future[ConnectionThread]) -> None:
        if not turn.done():
            message = f"the database is busy: no {self._what} came free within {self._wait:g} s; try again"
            turn.set_exception(DatabaseUnavailableError(message))


class Session(AbstractAsyncContextManager[SqlTransaction]):
    """One transaction, from entering to leaving.

    Args:
        pool: Where its connection comes from.
        on_commit: Called, in the thread, once a transaction that ran a statement was committed; `None`: nothing is to be committed.
        on_events: Called once events may have been committed.
    """

    def __init__(
        self, pool: ConnectionPool, *, on_commit: Callable[[], None] | None, on_events: Callable[[], None]
    ) -> None:
        self._pool = pool
        self._on_commit = on_commit
        self._on_events = on_events
        self._thread: ConnectionThread | None = None
        self._is_used = False
        self._is_begun = False
        self._has_failed = False
        self._has_written_events = False

    async def __aenter__(self) -> SqlTransaction:
        self._thread = await self._pool.take()
        return SqlTransaction(self.run, self._wrote_events)

    async def run(self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `query(connection, …)` in the thread, inside the transaction.

        Raises:
            DatabaseUnavailableError: It did not work, or something before it in this transaction did not.
        """
        thread = self._thread
        if thread is None:
            raise RuntimeError("this transaction has ended: what runs after it needs one of its own")

        def work(connection: Connection) -> T:
            return self._call(connection, thread.begin, lambda: query(connection, *args, **kwargs))

        self._is_used = True
        return await thread.submit(work)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        thread, self._thread = self._thread, None
        assert thread is not None
        committed: asyncio.Future[None] | None = None
        try:
            if not self._is_used:
                return
            if kind is None and self._on_commit is not None:
                # Once queued it is done, whatever becomes of the caller.
                committed = thread.submit(partial(self._commit, thread, self._on_commit), is_abandonable=False)
            else:
                # Nothing is awaited here: the caller may be a task, or a mere coroutine, that is being destroyed.
                thread.post(thread.roll_back)
        finally:
            self._pool.give_back(thread)
        if committed is not None:
            if self._has_written_events:
                committed.add_done_callback(lambda _: self._on_events())
            await committed

    def _wrote_events(self) -> None:
        self._has_written_events = True

    # --- called in the thread -------------------------------------------------------------------------------------

    def _call(self, connection: Connection, begin: str, query: Callable[[], T]) -> T:
        if self._has_failed:
            raise DatabaseUnavailableError("a statement before this one failed, and with it its transaction: try again")
        driver = cast("sqlite3.Connection", connection.connection.dbapi_connection)
        changes = 0
        try:
            if not self._is_begun:
                connection.begin()  # what SQLAlchemy is to know; the driver is asked itself, at a third of the cost
                driver.execute(begin)
                self._is_begun = True
            changes = driver.total_changes
            return query()
        except (UploadCoreError, IntegrityError):
            # A conflict that changed nothing leaves the transaction as it was; one half way through a query does not.
            self._has_failed = driver.total_changes != changes
            raise
        except BaseException:
            self._has_failed = True  # SQLite may have rolled back by itself: what came next would be on its own
            raise

    def _commit(self, thread: ConnectionThread, on_commit: Callable[[], None], connection: Connection) -> None:
        if self._has_failed:
            thread.roll_back(connection)
            raise DatabaseUnavailableError(
                "a statement failed, and with it its transaction: nothing was saved; try again"
            )
        if self._is_begun:
            thread.commit(connection)
            on_commit()
