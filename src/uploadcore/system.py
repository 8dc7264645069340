"""The clock and the ids of a real process."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
import uuid
from datetime import UTC, datetime

__all__ = ["RandomIds", "SystemClock", "instance_name"]


def instance_name() -> str:
    """Host, process and a random number: an operator finds the process, and one that took its number over has another name."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


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
