"""PostgreSQL: hearing at once of events that were written, in this process or in another."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

import asyncpg

from uploadcore.errors import UploadCoreError
from uploadcore.system import SystemClock
from uploadcore.waking import woken
from uploadcore_sql.postgres_errors import DRIVER_ERRORS

__all__ = ["CHANNEL", "PostgresWake"]

log = logging.getLogger(__name__)

CHANNEL = "uploadcore_events"
TOLD_EVERY = 0.05
"""Seconds between two notifications of one process, however many events it writes."""
PING_EVERY = 15.0
"""Seconds after which a connection that only listens is asked whether it is still there."""
PING_TIMEOUT = 2.0
RECONNECT_AFTER = 5.0
"""Seconds. Until then, and behind a pooler that shares sessions, polling has to do."""


class PostgresWake:
    """Wakes who waits for events: by what this process commits, and by `NOTIFY`.

    A process that waits itself sees to its own events, and tells nobody of them.

    Args:
        connect: Makes the connection that listens.
        notify: Tells the others.
        listens: Whether the server lets a connection do that.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        notify: Callable[[], Awaitable[None]],
        *,
        listens: bool,
    ) -> None:
        self._connect = connect
        self._notify = notify
        self._listens = listens
        self._wake = asyncio.Event()
        self._is_open = False
        self._is_waited_for = False
        self._has_news = False
        self._telling: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None

    def open(self) -> None:
        """From now on there is a server to listen to."""
        self._wake = asyncio.Event()  # of this event loop
        self._is_open = True

    def written(self) -> None:
        """This process has committed events."""
        self._wake.set()
        if self._is_open and not self._is_waited_for:
            self._has_news = True
            if self._telling is None:
                self._telling = asyncio.get_running_loop().create_task(self._tell())

    async def wait(self, timeout: timedelta) -> None:  # noqa: ASYNC109 - as the port has it
        """Wait until events may have been written since this last returned, or so long."""
        self._is_waited_for = True
        if self._is_open and self._listens and self._listening is None:
            self._listening = asyncio.get_running_loop().create_task(self._listen())
        try:
            await woken(self._wake, SystemClock(), timeout)
        except asyncio.CancelledError:
            self._is_waited_for = False  # nobody relays here any more
            raise

    async def close(self) -> None:
        """Stop listening and telling, until it is opened again. Idempotent."""
        self._is_open = self._is_waited_for = False
        tasks = [task for task in (self._telling, self._listening) if task is not None]
        self._telling = self._listening = None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _tell(self) -> None:
        while self._has_news:
            self._has_news = False
            try:
                await self._notify()
            except UploadCoreError:
                pass  # they look by themselves now and then
            except Exception:
                log.exception("telling others of events: a defect")
            await asyncio.sleep(TOLD_EVERY)
        self._telling = None

    async def _listen(self) -> None:
        while True:
            try:
                await self._listen_once()
            except (*DRIVER_ERRORS, OSError) as exc:
                log.info("the connection that hears of events was lost, and is made again: %s", type(exc).__name__)
            except Exception:
                log.exception("listening for events: a defect")
            await asyncio.sleep(RECONNECT_AFTER)

    async def _listen_once(self) -> None:
        """Until the connection is lost."""
        connection = await self._connect()
        ended = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: ended.set())
            await connection.add_listener(CHANNEL, lambda *_: self._wake.set())
            self._wake.set()  # of what was written before, nothing was heard
            while not ended.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(PING_EVERY):
                        await ended.wait()
                await connection.execute("SELECT 1", timeout=PING_TIMEOUT)
        finally:
            connection.terminate()
