"""The cache."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

__all__ = ["Cache"]


class Cache(Protocol):
    """Bytes with a time to live. It decides nothing: losing, hanging or flushing it costs latency only.

    No method raises for an unreachable cache: each answers `None`, and what a `set_if_newer` or `delete` did is then unknown.
    """

    async def open(self) -> None:
        """Get ready."""

    async def close(self) -> None:
        """Let go of everything. Idempotent."""

    async def get(self, key: str) -> bytes | None:
        """The value, if there is one that is still alive."""

    async def set_if_newer(self, key: str, value: bytes, version: int, *, ttl: timedelta) -> bool | None:
        """Store unless a newer version, or its tombstone, was stored before. The version marker outlives the value by 10 s.

        Versions are 0 to 2⁵³ - 1. The same version may be stored again, unless it was deleted.

        Returns:
            `True` if it is stored, `False` if a newer version or a tombstone stands; `None` if the cache did not answer.
        """

    async def delete(self, key: str, version: int) -> bool | None:
        """Drop the value and leave a tombstone: no version up to this one comes back for 10 s. Idempotent.

        Returns:
            `True` if the tombstone stands; `None` if the cache did not answer.
        """
