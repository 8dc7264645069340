"""The outbox in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from uploadcore.errors import VersionConflictError
from uploadcore.events import Event
from uploadcore.ports import Backlog, Clock, DeadLetter, Delivery, FailedDelivery

__all__ = ["MemoryOutbox", "OutboxTables", "Waiting", "Written"]


@dataclass(frozen=True, slots=True)
class Written:
    """An event. The dictionary's order is the order they were written in. `delivered_at`: everywhere it was to go."""

    event: Event
    delivered_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a destination still has to get of an event; once it has, there is none."""

    event: Event
    due_at: datetime
    attempts: int = 0
    dead_at: datetime | None = None
    error: str = ""


@dataclass(slots=True)
class OutboxTables:
    """The rows, which are immutable: a copy of the dictionaries is a copy of all. Deliveries are in order of position."""

    outbox: dict[str, Written] = field(default_factory=dict)
    deliveries: dict[tuple[str, str], Waiting] = field(default_factory=dict)
    last_position: int = 0


class MemoryOutbox:
    """The outbox, within one transaction.

    Args:
        tables: Of this transaction.
        clock: The database's.
        wrote: Called when an event was written.
    """

    def __init__(self, tables: OutboxTables, clock: Clock, wrote: Callable[[], None]) -> None:
        self._tables = tables
        self._clock = clock
        self._wrote = wrote

    async def add(self, event: Event) -> None:
        """Write an event. Raises `VersionConflictError` where one of its id is there already."""
        if event.id in self._tables.outbox:
            raise VersionConflictError(
                "that event was written before", upload_id=event.upload_id, file_id=event.file_id
            )
        self._tables.outbox[event.id] = Written(replace(event, occurred_at=self._clock.now()))
        self._wrote()

    async def number(self, destinations: Collection[str], limit: int) -> int:
        """Give events their positions, and their deliveries."""
        tables, now = self._tables, self._clock.now()
        unnumbered = [event_id for event_id, written in tables.outbox.items() if written.event.position is None][:limit]
        for event_id in unnumbered:
            tables.last_position += 1
            event = replace(tables.outbox[event_id].event, position=tables.last_position)
            tables.outbox[event_id] = Written(event, None if destinations else now)
            for destination in destinations:
                tables.deliveries[destination, event_id] = Waiting(event, due_at=now)
        return len(unnumbered)

    async def claim(self, destination: str, limit: int, *, lease: timedelta) -> list[Delivery]:
        """The oldest undelivered events that are due there, one per upload, hidden from others for `lease`."""
        now = self._clock.now()
        first: dict[str, Waiting] = {}
        for (name, _), waiting in self._tables.deliveries.items():
            if name == destination and waiting.dead_at is None:
                first.setdefault(waiting.event.upload_id, waiting)
        due = [waiting for waiting in first.values() if waiting.due_at <= now]
        claimed = []
        for waiting in due[:limit]:
            attempt = waiting.attempts + 1
            key = destination, waiting.event.id
            self._tables.deliveries[key] = replace(waiting, due_at=now + lease, attempts=attempt)
            claimed.append(Delivery(waiting.event, destination, attempt))
        return claimed

    async def delivered(self, deliveries: Sequence[Delivery]) -> None:
        """They have arrived."""
        self._done([(delivery.destination, delivery.event.id) for delivery in deliveries])

    async def failed(self, failures: Sequence[FailedDelivery]) -> None:
        """They have not."""
        now = self._clock.now()
        for delivery, retry_after, error in failures:
            key = delivery.destination, delivery.event.id
            waiting = self._tables.deliveries.get(key)
            if waiting is None or waiting.dead_at is not None or waiting.attempts != delivery.attempt:
                continue
            if retry_after is None:
                self._tables.deliveries[key] = replace(waiting, dead_at=now, error=error)
            else:
                self._tables.deliveries[key] = replace(waiting, due_at=now + retry_after, error=error)

    async def dead_letters(
        self, *, destination: str | None, after: tuple[int, str] | None, limit: int
    ) -> list[DeadLetter]:
        """Dead letters by position and destination, strictly after that pair."""
        found = {
            (waiting.event.position or 0, name): DeadLetter(
                waiting.event, name, waiting.attempts, waiting.dead_at, waiting.error
            )
            for (name, _), waiting in self._tables.deliveries.items()
            if waiting.dead_at is not None and destination in {None, name}
        }
        return [found[place] for place in sorted(found) if after is None or place > after][:limit]

    async def replay(self, destination: str, *, event_id: str | None, limit: int) -> int:
        """Let dead letters be claimed again."""
        now = self._clock.now()
        keys = [key for key in self._keys(destination, event_id) if self._tables.deliveries[key].dead_at is not None]
        for key in keys[:limit]:
            self._tables.deliveries[key] = Waiting(self._tables.deliveries[key].event, due_at=now)
        return len(keys[:limit])

    async def discard(self, destination: str, *, event_id: str | None, limit: int) -> int:
        """Drop what a destination still has to get."""
        keys = self._keys(destination, event_id)[:limit]
        self._done(keys)
        return len(keys)

    async def purge(self, *, older_than: timedelta, dead_older_than: timedelta) -> int:
        """Drop old dead letters, and old events that are done with."""
        now = self._clock.now()
        dead = [
            key
            for key, waiting in self._tables.deliveries.items()
            if waiting.dead_at is not None and waiting.dead_at < now - dead_older_than
        ]
        self._done(dead)
        waited_for = {event_id for _, event_id in self._tables.deliveries}
        old = [
            event_id
            for event_id, written in self._tables.outbox.items()
            if written.delivered_at is not None
            and written.delivered_at < now - older_than
            and event_id not in waited_for
        ]
        for event_id in old:
            del self._tables.outbox[event_id]
        return len(dead) + len(old)

    async def backlog(self, destinations: Collection[str]) -> tuple[Backlog, ...]:
        """What is pending and dead, by name."""
        pending: Counter[str] = Counter()
        dead: Counter[str] = Counter()
        oldest: dict[str, datetime] = {}
        waiting = [(name, w.event, w.dead_at is not None) for (name, _), w in self._tables.deliveries.items()]
        unnumbered = [w.event for w in self._tables.outbox.values() if w.event.position is None]
        waiting += [(name, event, False) for event in unnumbered for name in destinations]
        for name, event, is_dead in waiting:
            (dead if is_dead else pending)[name] += 1
            if not is_dead and event.occurred_at is not None:
                oldest[name] = min(event.occurred_at, oldest.get(name, event.occurred_at))
        now = self._clock.now()
        return tuple(
            Backlog(name, pending[name], dead[name], now - oldest[name] if name in oldest else None)
            for name in sorted({*destinations, *pending, *dead})
        )

    def _keys(self, destination: str, event_id: str | None) -> list[tuple[str, str]]:
        return [key for key in self._tables.deliveries if key[0] == destination and event_id in {None, key[1]}]

    def _done(self, keys: Sequence[tuple[str, str]]) -> None:
        """Nothing is to be delivered there any more."""
        for key in keys:
            self._tables.deliveries.pop(key, None)
        waited_for = {event_id for _, event_id in self._tables.deliveries}
        for event_id in {event_id for _, event_id in keys} - waited_for:
            written = self._tables.outbox.get(event_id)
            if written is not None and written.delivered_at is None:
                self._tables.outbox[event_id] = replace(written, delivered_at=self._clock.now())
