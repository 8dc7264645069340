"""What an operator does with events: see what waits, look at dead letters, have them delivered after all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from uploadcore.ports import Backlog, Database, DeadLetter, Outbox

__all__ = ["EventService"]

PORTION = 5_000
"""Deliveries changed in one transaction: a fraction of a second of a server's time."""


class EventService:
    """Made by `UploadCore`; use it as `core.events`. Not for callers who own uploads: it shows everybody's events."""

    def __init__(self, *, database: Database, destinations: tuple[str, ...]) -> None:
        """Work on this database; `destinations`: those this process delivers to."""
        self._database = database
        self._destinations = destinations

    async def backlog(self) -> tuple[Backlog, ...]:
        """What each destination still has to get, by name; also of those not configured here that have something waiting."""
        async with self._database.reader() as tx:
            return await tx.outbox.backlog(self._destinations)

    async def dead_letters(
        self, *, destination: str | None = None, after: DeadLetter | None = None, limit: int = 100
    ) -> tuple[DeadLetter, ...]:
        """Events that are not tried any more, oldest first.

        Args:
            destination: Only those of this one.
            after: The last one of the page before.
            limit: How many at most.
        """
        place = None if after is None else (after.event.position or 0, after.destination)
        async with self._database.reader(single=True) as tx:
            return tuple(await tx.outbox.dead_letters(destination=destination, after=place, limit=limit))

    async def replay(self, *, destination: str, event_id: str | None = None) -> int:
        """Have dead letters delivered after all, with the same id as before: one event, or all of a destination. How many there were.

        Later events of the same upload may have arrived already: a receiver that minds compares positions.
        """
        return await self._portions(lambda outbox: outbox.replay(destination, event_id=event_id, limit=PORTION))

    async def discard(self, *, destination: str, event_id: str | None = None) -> int:
        """Drop what a destination still has to get, pending or dead, one event or all: it is gone for good, or never existed. How many there were."""
        return await self._portions(lambda outbox: outbox.discard(destination, event_id=event_id, limit=PORTION))

    async def _portions(self, portion: Callable[[Outbox], Awaitable[int]]) -> int:
        """Again and again, in transactions of their own, while there are whole portions: what dies again meanwhile is not waited for."""
        total, done = 0, PORTION
        while done == PORTION:
            async with self._database.transaction() as tx:
                done = await portion(tx.outbox)
            total += done
        return total
