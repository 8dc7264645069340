"""What a cache did not answer for is made known to it once it does: a change of which nobody knows whether it has arrived.

Not the change itself is repeated, which by then may be overtaken, and the marks of what overtook it lost: the copies before it are
dropped, whatever the cache has. That is right at any time, and costs one read of the database.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from uploadcore.ports import Cache, Clock

__all__ = ["Invalidations"]

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
"""Seconds between attempts: doubled from one to the other while the cache does not answer."""
MOST = 10_000
"""Changes to make known at a time. A cache that is away while more are made is believed again about the oldest."""


@dataclass(frozen=True, slots=True)
class _Pending:
    version: int
    until: float


class Invalidations:
    """The changes that a cache may not know of, by key."""

    def __init__(self, cache: Cache, clock: Clock) -> None:
        """Tell this cache."""
        self._cache = cache
        self._clock = clock
        self._pending: dict[str, _Pending] = {}
        self._telling: asyncio.Task[None] | None = None

    def pending(self, key: str) -> int | None:
        """The version below which what the cache has under this key is overtaken, and the cache may not know; `None`: there is none."""
        pending = self._pending.get(key)
        return None if pending is None else pending.version

    def add(self, key: str, version: int, *, keep: timedelta) -> None:
        """A change to `version` that the cache did not answer for. It is dropped after `keep`: no copy lives longer."""
        before = self._pending.pop(key, None)
        newest = version if before is None else max(version, before.version)
        self._pending[key] = _Pending(newest, self._clock.monotonic() + keep.total_seconds())
        if len(self._pending) > MOST:
            del self._pending[next(iter(self._pending))]
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell())

    def settled(self, key: str, version: int) -> None:
        """The cache has answered for this version: it has it, or a newer one."""
        pending = self._pending.get(key)
        if pending is not None and pending.version <= version:
            del self._pending[key]

    async def close(self) -> None:
        """Stop telling."""
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.gather(self._telling, return_exceptions=True)

    async def _tell(self) -> None:
        pause = FIRST_PAUSE
        while self._pending:
            await self._clock.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            await self._tell_once()

    async def _tell_once(self) -> None:
        """Tell all, until the cache does not answer."""
        for key, pending in list(self._pending.items()):
            is_over = pending.until <= self._clock.monotonic()
            if not is_over and await self._cache.delete(key, pending.version - 1) is None:
                return
            if self._pending.get(key) is pending:
                del self._pending[key]
