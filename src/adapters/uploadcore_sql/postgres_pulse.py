"""Whether the server answers, and what time it has: asked four times a second, on a connection of its own.

A server that is gone refuses connections, and whoever asks is told at once. One that hangs, or whose network swallows everything, is silent: whoever
asks it waits for as long as an honest statement may take, holds a connection meanwhile, and the next one waits for that. So it is the pulse
that waits: less than two seconds after the last answer everything under way is cut, and until the server answers again whoever comes is told at
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

INTERVAL = 0.25
"""Seconds between two questions, and between two attempts to connect to a server that is away."""
SOON = 0.5
"""Seconds after which a connection that is silent is doubted, and another one asked beside it: it may be the connection that is broken."""
SILENCE = 1.1
"""Seconds after that in which neither has answered, and the server is away. It is asked for nothing that it would have to read or wait for."""
PATIENCE = 2.0
"""Seconds to connect to a server that is known to be away: nobody waits for it."""
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
        is_away: It says nothing at all.
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
            is_silent = await self._is_silent()
            if is_silent and not self.is_away:
                log.error("the database does not answer: what needs it is refused until it does")
                self.is_away = True
                self._when_away()
            elif self.is_away and not is_silent:
                log.warning("the database answers again")
                self.is_away = False
            await asyncio.sleep(INTERVAL)

    async def _is_silent(self) -> bool:
        """Ask over the connection there is, and where that does not answer, over a new one as well. A refusal is an answer."""
        held, self._connection = self._connection, None
        asking = [] if held is None else [asyncio.create_task(self._ask(held))]
        try:
            if await _one_answers(asking, within=SOON):
                return False
            asking.append(asyncio.create_task(self._ask(None)))
            if await _one_answers(asking, within=PATIENCE if self.is_away else SILENCE):
                return False
            anew = asking[-1]
            return not anew.done() or isinstance(anew.exception(), TimeoutError)
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    async def _ask(self, connection: asyncpg.Connection | None) -> None:
        """Ask, and keep the connection where it has answered; else it is dropped."""
        try:
            connection = connection or await self._connect()
            asked_at = datetime.now(UTC)
            self.heard(await connection.fetchval(QUESTION), asked_at=asked_at)
            connection, self._connection = self._connection, connection
        finally:
            if connection is not None:
                connection.terminate()

    def heard(self, there: float, *, asked_at: datetime) -> None:
        """The server's answer to `QUESTION` has come."""
        middle = asked_at + (datetime.now(UTC) - asked_at) / 2
        self.clock_offset = datetime.fromtimestamp(there, UTC) - middle

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


async def _one_answers(asking: list[asyncio.Task[None]], *, within: float) -> bool:
    """Whether one of them ends well in so many seconds of this process' own time."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within
    while True:
        if any(task.done() and task.exception() is None for task in asking):
            return True
        waiting = [task for task in asking if not task.done()]
        late = loop.time() - end
        if not waiting or 0 <= late <= LATE:
            return False
        if late > LATE:  # this process stood still: what has come meanwhile is to be seen first
            end = loop.time() + LATE / 2
        await asyncio.wait(waiting, timeout=end - loop.time(), return_when=asyncio.FIRST_COMPLETED)
