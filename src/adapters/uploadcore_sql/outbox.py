"""The outbox: events written with the change they tell of, numbered, and handed out in order per upload and destination.

An event is one row; what a destination still has to get is one row of `deliveries` each, which goes when it has arrived. So what is claimed from
stays as small as the backlog is, however many events are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import timedelta

from uploadcore.events import Event
from uploadcore.ports import Backlog, DeadLetter, Delivery, FailedDelivery
from uploadcore_sql import dead_letters
from uploadcore_sql import deliveries as on_their_way
from uploadcore_sql.events import add_event
from uploadcore_sql.running import Run

__all__ = ["SqlOutbox"]


class SqlOutbox:
    """The outbox, within one transaction.

    Args:
        run: Runs its queries.
        wrote: Called when an event was written.
    """

    __slots__ = ("_run", "_wrote")

    def __init__(self, run: Run, wrote: Callable[[], None]) -> None:
        self._run = run
        self._wrote = wrote

    async def add(self, event: Event) -> None:
        """Write an event. Raises `VersionConflictError` where one of its id is there already."""
        await self._run(add_event, event)
        self._wrote()

    async def number(self, destinations: Collection[str], limit: int) -> int:
        """Give committed events their positions and deliveries, unless another transaction is at it; how many."""
        return await self._run(on_their_way.number, destinations, limit)

    async def claim(self, destination: str, limit: int, *, lease: timedelta) -> list[Delivery]:
        """The oldest undelivered events that are due there, one per upload, hidden from others for `lease`."""
        return await self._run(on_their_way.claim, destination, limit, lease)

    async def delivered(self, deliveries: Sequence[Delivery]) -> None:
        """They have arrived."""
        await self._run(
            on_their_way.done, [(on_their_way.position_of(delivery), delivery.destination) for delivery in deliveries]
        )

    async def failed(self, failures: Sequence[FailedDelivery]) -> None:
        """They have not: each may be claimed again after a while, or is a dead letter."""
        await self._run(on_their_way.failed, failures)

    async def dead_letters(
        self, *, destination: str | None, after: tuple[int, str] | None, limit: int
    ) -> list[DeadLetter]:
        """Dead letters by position and destination, strictly after that pair."""
        return await self._run(dead_letters.page, destination, after, limit)

    async def replay(self, destination: str, *, event_id: str | None, limit: int) -> int:
        """Let dead letters be claimed again; how many."""
        return await self._run(dead_letters.replay, destination, event_id, limit)

    async def discard(self, destination: str, *, event_id: str | None, limit: int) -> int:
        """Drop what a destination still has to get; how many."""
        return await self._run(dead_letters.discard, destination, event_id, limit)

    async def purge(self, *, older_than: timedelta, dead_older_than: timedelta) -> int:
        """Drop old dead letters and events that are done with, `dead_letters.PURGED_AT_ONCE` of each at most; how many."""
        return await self._run(dead_letters.purge, older_than, dead_older_than)

    async def backlog(self, destinations: Collection[str]) -> tuple[Backlog, ...]:
        """What is pending and dead, by name."""
        return await self._run(dead_letters.backlog, destinations)
