"""Waiting for something to happen, but not for ever."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from uploadcore.ports import Clock

__all__ = ["woken"]


async def woken(wake: asyncio.Event, clock: Clock, longest: timedelta) -> None:
    """Wait until `wake` is set, but no longer than that; clear it, so that what happens from now on is seen by the next wait."""
    if not wake.is_set():
        waits = [asyncio.ensure_future(wake.wait()), asyncio.ensure_future(clock.sleep(longest.total_seconds()))]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
    wake.clear()
