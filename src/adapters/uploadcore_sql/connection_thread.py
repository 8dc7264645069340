"""A thread that owns one connection and does what is queued, in order.

A queue and `call_soon_threadsafe` instead of an executor: the order holds across callers (what the writer relies on), the thread can be
joined, and a round trip costs less.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from uploadcore.errors import DatabaseUnavailableError
from uploadcore_sql.errors import map_exceptions

__all__ = ["ConnectionThread"]

T = TypeVar("T")

TOLD_TOGETHER = 4
"""How many jobs are done before the first of them is told of, where they are queued already."""


class _Job(NamedTuple):
    """Something to do, and the future that awaits it, if any does."""

    work: Callable[[Connection], Any]
    future: asyncio.Future[Any] | None
    is_abandonable: bool


class _Outcome(NamedTuple):
    """What became of a job, for the event loop to hear."""

    future: asyncio.Future[Any]
    result: object
    error: Exception | None


class ConnectionThread:
    """One connection, used by one thread only. It connects with its first job.

    A connection that can't be committed or rolled back is dropped, and made anew for the next job.

    Args:
        engine: Makes the connection.
        name: Of the thread.
        begin: The statement that begins a transaction on it.
    """

    def __init__(self, engine: Engine, *, name: str, begin: str) -> None:
        self.begin = begin
        self._engine = engine
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._connection: Connection | None = None
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    # --- called in the event loop ---------------------------------------------------------------------------------

    def submit(self, work: Callable[[Connection], T], *, is_abandonable: bool = True) -> asyncio.Future[T]:
        """Queue `work`; its result, or its error as the core's, comes with the future.

        Args:
            work: Called in the thread.
            is_abandonable: Whether it is left undone if the future is cancelled before its turn.

        Raises:
            DatabaseUnavailableError: The thread was told to stop.
        """
        if self._is_stopping:
            raise DatabaseUnavailableError("the database is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(_Job(work, future, is_abandonable))
        return future

    def post(self, work: Callable[[Connection], object]) -> None:
        """Queue `work` for nobody to wait for. After the end it is left undone: closing has rolled everything back."""
        self._jobs.put(_Job(work, None, is_abandonable=False))

    async def stop(self) -> None:
        """Do what is queued, close the connection, end the thread. Idempotent."""
        if not self._is_stopping:
            self._is_stopping = True
            self._jobs.put(None)
        await asyncio.shield(self._ended)
        self._thread.join()  # it is on its last line

    # --- called in the thread -------------------------------------------------------------------------------------

    def commit(self, connection: Connection) -> None:
        """Commit. After an error the outcome is unknown, and the connection another."""
        try:
            connection.commit()
        except BaseException:
            self._drop(connection)
            raise

    def roll_back(self, connection: Connection) -> None:
        """Undo what was begun, if anything was."""
        try:
            connection.rollback()
        except SQLAlchemyError:
            self._drop(connection)  # closing undoes it as well

    def _serve(self) -> None:
        done: list[_Outcome] = []
        while (job := self._jobs.get()) is not None:
            if (outcome := self._do(job)) is not None:
                done.append(outcome)
            del job, outcome  # or they, and what they refer to, live until the next job comes
            # Waking the loop costs as much as a small statement, and makes it compete for the interpreter: what follows at once
            # (the next transaction's first statement, behind a commit) is told of together.
            if done and (self._jobs.empty() or len(done) == TOLD_TOGETHER):
                self._tell(done)
                done = []
        if self._connection is not None:
            self._drop(self._connection)
        self._tell([*done, _Outcome(self._ended, None, None)])

    def _do(self, job: _Job) -> _Outcome | None:
        future = job.future
        if future is not None and future.cancelled() and job.is_abandonable:
            return None
        result, error = None, None
        try:
            with map_exceptions():
                if self._connection is None:
                    self._connection = self._engine.connect()
                result = job.work(self._connection)
        except Exception as exc:  # noqa: BLE001 - it is raised again where the job came from
            error = exc
        return None if future is None else _Outcome(future, result, error)

    def _tell(self, done: list[_Outcome]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(_settle, done)

    def _drop(self, connection: Connection) -> None:
        self._connection = None
        with suppress(SQLAlchemyError):
            connection.invalidate()
        with suppress(SQLAlchemyError):
            connection.close()


def _settle(done: list[_Outcome]) -> None:
    for future, result, error in done:
        if future.done():
            continue  # cancelled meanwhile
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
