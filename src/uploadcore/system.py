"""The clock and the ids of a real process."""

from __future__ import annotations

import asyncio
import time
import uuid
from datetime import UTC, datetime

__all__ = ["RandomIds", "SystemClock"]


class SystemClock:
    """This machine's clock."""

    def now(self) -> datetime:
        """Wall-clock time, UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class RandomIds:
    """Random UUIDs: 122 random bits (RFC 9562, section 5.4)."""

    def new(self) -> str:
        """A new one."""
        return str(uuid.uuid4())
