"""A cache in this process: the embedded default."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta

from uploadcore.ports import Clock
from uploadcore.system import SystemClock

__all__ = ["MemoryCache"]

MARKER_LIFE = 10.0
"""Seconds a version outlives its value, and a tombstone lives: as the port says."""


@dataclass(slots=True)
class _Entry:
    value: bytes | None
    newest: int
    deleted_up_to: int
    value_until: float
    marker_until: float


class MemoryCache:
    """Bytes with a time to live, for one process.

    Args:
        clock: Whose `monotonic()` the times to live are measured by.
        max_entries: How many keys are kept; beyond that the longest unused goes.
    """

    def __init__(self, *, clock: Clock | None = None, max_entries: int = 10_000) -> None:
        """Be empty."""
        self._clock = clock or SystemClock()
        self._max_entries = max_entries
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    async def open(self) -> None:
        """Get ready: nothing to do."""

    async def close(self) -> None:
        """Let go of everything."""
        self._entries.clear()

    def flush(self) -> None:
        """Lose everything, tombstones included, as a restarted cache does."""
        self._entries.clear()

    async def get(self, key: str) -> bytes | None:
        """The value, if there is one that is still alive."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry.value if entry.value_until > self._clock.monotonic() else None

    async def set_if_newer(self, key: str, value: bytes, version: int, *, ttl: timedelta) -> bool | None:
        """Store unless a newer version, or its tombstone, was stored before. Never `None`: it always answers."""
        now = self._clock.monotonic()
        entry = self._living(key, now)
        if entry is not None and (version < entry.newest or version <= entry.deleted_up_to):
            return False
        until = now + ttl.total_seconds()
        deleted_up_to = -1 if entry is None else entry.deleted_up_to
        self._keep(key, _Entry(value, version, deleted_up_to, until, until + MARKER_LIFE))
        return True

    async def delete(self, key: str, version: int) -> bool | None:
        """Drop the value and leave a tombstone."""
        now = self._clock.monotonic()
        entry = self._living(key, now)
        newest, deleted_up_to, until = (version, version, now + MARKER_LIFE)
        if entry is not None:
            newest = max(newest, entry.newest)
            deleted_up_to = max(deleted_up_to, entry.deleted_up_to)
            until = max(until, entry.marker_until)
        self._keep(key, _Entry(None, newest, deleted_up_to, now, until))
        return True

    def _living(self, key: str, now: float) -> _Entry | None:
        entry = self._entries.get(key)
        return entry if entry is not None and entry.marker_until > now else None

    def _keep(self, key: str, entry: _Entry) -> None:
        self._entries[key] = entry
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)
