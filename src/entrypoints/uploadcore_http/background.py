"""The sweeper and the relay, running beside the requests for as long as the service does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from uploadcore import UploadCore

__all__ = ["in_background"]

RESTART_DELAY = 5.0
"""Seconds after which the background work is begun again, should a defect have ended it."""

log = logging.getLogger("uploadcore.http")


@asynccontextmanager
async def in_background(core: UploadCore) -> AsyncIterator[None]:
    """Sweep and relay while the block runs."""
    task = asyncio.create_task(_forever(core), name="uploadcore background")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(
            task, return_exceptions=True
        )  # raises the cancellation of whoever waits here, not the task's


async def _forever(core: UploadCore) -> None:
    while True:
        try:
            await core.run_background()
        except Exception:
            log.exception("the background work ended; it begins again in %s s", RESTART_DELAY)
        await asyncio.sleep(RESTART_DELAY)
