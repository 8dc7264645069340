"""What this process remembers of the cache for a moment, so that a viral key does not become as many calls to Redis.

It keeps the port's rule by itself: a version older than one it has seen, or deleted, is refused, and comes back from nowhere, whether
Redis answers or not.
"""

from __future__ import annotations

from typing import NamedTuple

from cachetools import TTLCache

from uploadcore.ports import Clock

__all__ = ["MARKER_LIFE", "NearCache"]

MARKER_LIFE = 10.0
"""Seconds a version outlives its value, and a tombstone lives: as the port says."""

MARKERS_PER_VALUE = 8
"""Markers are kept ten times as long as values, and are small."""

LARGEST_VALUE = 64 * 1024
"""Bytes of a value that is kept; with `entries` it bounds the memory."""


class _Value(NamedTuple):
    value: bytes
    version: int
    until: float


class _Marker(NamedTuple):
    newest: int
    deleted: int


class NearCache:
    """A bounded number of values and versions in this process.

    Args:
        entries: How many values are kept; 0: none, and no versions either.
        ttl: Seconds a value is kept at most.
        clock: Whose `monotonic()` the times are measured by.
    """

    def __init__(self, entries: int, ttl: float, clock: Clock) -> None:
        """Be empty."""
        self._clock = clock
        self._ttl = ttl
        self._values: TTLCache[str, _Value] = TTLCache(entries, ttl, timer=clock.monotonic)
        self._markers: TTLCache[str, _Marker] = TTLCache(
            entries * MARKERS_PER_VALUE, MARKER_LIFE, timer=clock.monotonic
        )
        self.is_on = entries > 0 and ttl > 0

    def get(self, key: str) -> bytes | None:
        """The value, if there is one that is still alive."""
        kept = self._values.get(key)
        return kept.value if kept is not None and kept.until > self._clock.monotonic() else None

    def refuses(self, key: str, version: int) -> bool:
        """Whether a newer version, or its tombstone, is known here."""
        marker = self._markers.get(key)
        return marker is not None and (version < marker.newest or version <= marker.deleted)

    def put(self, key: str, value: bytes, version: int, *, seconds: float) -> bool:
        """Keep a value for that long, `ttl` at most, unless it is refused.

        Returns:
            Whether it may be used: `False` if it was refused.
        """
        if self.refuses(key, version):
            return False
        self.learn(key, newest=version)
        if self.is_on and len(value) <= LARGEST_VALUE:
            self._values[key] = _Value(value, version, self._clock.monotonic() + min(seconds, self._ttl))
        return True

    def learn(self, key: str, *, newest: int, deleted: int = -1) -> None:
        """Remember versions, and drop the value they overtake."""
        if not self.is_on:
            return
        known = self._markers.get(key, _Marker(-1, -1))
        marker = self._markers[key] = _Marker(max(newest, known.newest), max(deleted, known.deleted))
        kept = self._values.get(key)
        if kept is not None and (kept.version < marker.newest or kept.version <= marker.deleted):
            self._values.pop(key, None)  # its life may end this moment

    def clear(self) -> None:
        """Forget everything."""
        self._values.clear()
        self._markers.clear()
