"""Whether the server answers, and what time it has: asked twice a second, on a connection of its own.

A server that is gone refuses connections, and is known to be gone. One that hangs, or whose network swallows everything, is silent: whoever
asks it waits for as long as an honest statement may take, holds a connection meanwhile, and the next one waits for that. So it is the pulse
that waits: a second and a half after the last answer everything under way is cut, and until the server answers again whoever comes is told at
once. A server that is merely slow answers this, and is waited for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import asyncpg

__all__ = ["QUESTION", "Pulse"]

INTERVAL = 0.5
"""Seconds between two questions, and between two attempts to connect to a server that is away."""
ANSWER = 0.5
"""Seconds an answer may take, and a connection: it reads nothing, waits for no lock, and writes nothing."""
QUESTION = "SELECT extract(epoch FROM clock_timestamp())::float8"
"""Seconds since 1970, by the server."""
LATE = 0.25
"""Seconds. Where an alarm of ours rings later than that, it is this process that stood still, and nothing is known of the server."""

log = logging.getLogger(__name__)


class Pulse:
    """The pulse of one server.

    Args:
        connect: Makes a connection to it.
        when_away: Called once it is seen to be away: cuts everything under way.

    Attributes:
        is_away: It does not answer.
        clock_offset: How far its clock is ahead of this process's; `None` until it was asked.
    """

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection]], when_away: Callable[[], None]) -> None:
        self._connect = connect
        self._when_away = when_away
        self._connection: asyncpg.Connection | None = None
        self._watching: asyncio.Task[None] | None = None
        self.is_away = False
        self.clock_offset: timedelta | None = None

    def start(self) -> None:
        """Begin to ask."""
        self._watching = asyncio.create_task(self._watch(), name="uploadcore PostgreSQL pulse")

    async def stop(self) -> None:
        """Ask no more. Idempotent."""
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
        self._drop()
        self.is_away = False

    async def _watch(self) -> None:
        while True:
            # Of a connection that is silent it may be the connection that is broken: a new one tells.
            is_new = self._connection is None
            if await self._answers():
                if self.is_away:
                    log.warning("the database answers again")
                self.is_away = False
            elif not is_new:
                continue
            elif not self.is_away:
                self.is_away = True
                log.error("the database does not answer: what needs it is refused until it does")
                self._when_away()
            await asyncio.sleep(INTERVAL)

    async def _answers(self) -> bool:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                async with asyncio.timeout(ANSWER):
                    await self._ask()
            except TimeoutError:
                self._drop()
                if loop.time() - began > ANSWER + LATE:
                    continue
                return False
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                self._drop()
                return False
            return True

    async def _ask(self) -> None:
        if self._connection is None:
            self._connection = await self._connect()
        asked_at = datetime.now(UTC)
        self.heard(await self._connection.fetchval(QUESTION), asked_at=asked_at)

    def heard(self, there: float, *, asked_at: datetime) -> None:
        """The server's answer to `QUESTION` has come."""
        middle = asked_at + (datetime.now(UTC) - asked_at) / 2
        self.clock_offset = datetime.fromtimestamp(there, UTC) - middle

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
