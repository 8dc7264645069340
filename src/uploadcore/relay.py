"""Background: deliver events from the outbox to the publisher. At least once, in order per upload, never before they are true."""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import timedelta

from uploadcore.config import UploadConfig
from uploadcore.ports import Clock, Database, EventPublisher, PendingEvent

__all__ = ["Relay", "retry_after"]

log = logging.getLogger(__name__)

CLAIM_LEASE = timedelta(seconds=30)
"""How long claimed events are hidden from other relays; more than one delivery may take."""
DELIVERY_TIMEOUT = 10.0
"""Seconds one delivery may take."""
LONGEST_RETRY = timedelta(minutes=5)


def retry_after(attempts: int, *, chance: float) -> timedelta:
    """How long to wait after `attempts` failed deliveries: exponential with full jitter, from 1 s, at most 5 minutes.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    Args:
        attempts: Failed deliveries so far, 1 or more.
        chance: Uniform in [0, 1).

    >>> retry_after(3, chance=0.5)
    datetime.timedelta(seconds=2)
    """
    ceiling = min(LONGEST_RETRY, timedelta(seconds=2 ** min(attempts - 1, 16)))
    return ceiling * chance


class Relay:
    """Made by `UploadCore`; use it as `core.relay()`."""

    def __init__(
        self, *, database: Database, publisher: EventPublisher | None, clock: Clock, config: UploadConfig
    ) -> None:
        """Deliver to `publisher`; with none, every event has arrived everywhere it should."""
        self._database = database
        self._publisher = publisher
        self._clock = clock
        self._config = config
        self._random = random.Random()  # noqa: S311 - jitter, no secret

    async def relay(self) -> int:
        """One pass: deliver what is due, at most one event per upload; how many arrived.

        Raises:
            DatabaseUnavailableError: It can't be asked what is due.
        """
        async with self._database.transaction() as tx:
            claimed = await tx.outbox.claim(self._config.batch, lease=CLAIM_LEASE)
            if self._publisher is None:
                for pending in claimed:
                    await tx.outbox.delivered(pending.event.id)
                return len(claimed)
        if not claimed:
            return 0
        publisher = self._publisher
        arrived = await asyncio.gather(*(self._deliver(publisher, pending) for pending in claimed))
        async with self._database.transaction() as tx:
            for pending, has_arrived in zip(claimed, arrived, strict=True):
                if has_arrived:
                    await tx.outbox.delivered(pending.event.id)
                else:
                    pause = retry_after(pending.attempts + 1, chance=self._random.random())
                    await tx.outbox.failed(pending.event.id, retry_after=pause)
        return sum(arrived)

    async def _deliver(self, publisher: EventPublisher, pending: PendingEvent) -> bool:
        try:
            async with asyncio.timeout(DELIVERY_TIMEOUT):
                await publisher.publish(pending.event)
        except Exception as exc:  # noqa: BLE001 - a publisher is the host's code; any failure of it only means: not delivered
            log.warning("event %s: delivery failed: %s", pending.event.id, type(exc).__name__)
            return False
        return True
