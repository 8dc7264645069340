"""What is asked for now and then, however many want to know."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

__all__ = ["Refreshed"]


class Refreshed:
    """Work whose outcome is good for a while. Whoever comes while it is done waits for the same, in whichever event loop that is."""

    def __init__(self) -> None:
        self._done_at = float("-inf")
        self._doing: asyncio.Task[None] | None = None

    async def within(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work, unless it was done so many seconds ago at most."""
        if time.monotonic() - self._done_at > seconds:
            if self._doing is None or self._doing.done():
                self._doing = asyncio.create_task(self._do(work))
            await asyncio.shield(self._doing)

    async def _do(self, work: Callable[[], Awaitable[None]]) -> None:
        await work()
        self._done_at = time.monotonic()
