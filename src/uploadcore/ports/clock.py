"""Time and chance: what a test replaces to be repeatable."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

__all__ = ["Clock", "IdFactory"]


class Clock(Protocol):
    """Time of this process. Decides nothing that a database's clock must decide."""

    def now(self) -> datetime:
        """Wall-clock time, UTC."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class IdFactory(Protocol):
    """Makes unguessable, unique ids."""

    def new(self) -> str:
        """A new one: letters, digits and hyphens, up to 64 characters."""
