"""The outbox: events written with the change they tell of, handed out in order per upload."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import BigInteger, Connection, Row, bindparam, delete, exists, insert, select, update

from uploadcore.events import Event, EventType
from uploadcore.ports import PendingEvent
from uploadcore_sql.clock import database_now, from_microseconds, to_microseconds
from uploadcore_sql.columns import json_text, mapping_from
from uploadcore_sql.running import Run
from uploadcore_sql.tables import events

__all__ = ["SqlOutbox", "write_events"]

_c = events.c
_earlier = events.alias("earlier")

_INSERT = insert(events).values(occurred_at=database_now(), attempts=0, due_at=database_now())
_FIRST_DUE = (
    select(_c.position)
    .where(
        _c.delivered_at.is_(None),
        _c.due_at <= database_now(),
        ~exists().where(
            _earlier.c.upload_id == _c.upload_id,
            _earlier.c.delivered_at.is_(None),
            _earlier.c.position < _c.position,
        ),
    )
    .order_by(_c.due_at, _c.position)
    .limit(bindparam("limit_", type_=BigInteger))
)
_CLAIM = (
    update(events)
    .where(_c.position.in_(_FIRST_DUE.scalar_subquery()))
    .values(due_at=database_now() + bindparam("lease", type_=BigInteger))
    .returning(events)
)
_DELIVERED = (
    update(events).where(_c.id == bindparam("id_"), _c.delivered_at.is_(None)).values(delivered_at=database_now())
)
_FAILED = (
    update(events)
    .where(_c.id == bindparam("id_"), _c.delivered_at.is_(None))
    .values(attempts=_c.attempts + 1, due_at=database_now() + bindparam("retry_after", type_=BigInteger))
)
_PURGE = delete(events).where(_c.delivered_at < database_now() - bindparam("older_than", type_=BigInteger))


class SqlOutbox:
    """The outbox, within one transaction."""

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    async def add(self, event: Event) -> None:
        """Write an event. Raises `VersionConflictError` where one of its id is there already."""
        await self._run(write_events, (event,))

    async def claim(self, limit: int, *, lease: timedelta) -> list[PendingEvent]:
        """The oldest undelivered events that are due, one per upload, hidden from others for `lease`."""
        return await self._run(_claim, limit, lease)

    async def delivered(self, event_id: str) -> None:
        """It has arrived."""
        await self._run(_delivered, event_id)

    async def failed(self, event_id: str, *, retry_after: timedelta) -> None:
        """It has not: count the attempt, and let it be claimed again after a while."""
        await self._run(_failed, event_id, retry_after)

    async def purge(self, *, older_than: timedelta) -> int:
        """Drop events delivered longer ago than that; how many."""
        return await self._run(_purge, older_than)


def write_events(connection: Connection, written: Sequence[Event]) -> None:
    """Write events in their order."""
    for event in written:
        connection.execute(
            _INSERT,
            {
                "id": event.id,
                "type": event.type.value,
                "owner": event.owner,
                "upload_id": event.upload_id,
                "file_id": event.file_id,
                "data": json_text(event.data),
            },
        )


def _claim(connection: Connection, limit: int, lease: timedelta) -> list[PendingEvent]:
    rows = connection.execute(_CLAIM, {"limit_": limit, "lease": to_microseconds(lease)}).all()
    return [PendingEvent(_event(row), row.attempts) for row in sorted(rows, key=lambda row: row.position)]


def _delivered(connection: Connection, event_id: str) -> None:
    connection.execute(_DELIVERED, {"id_": event_id})


def _failed(connection: Connection, event_id: str, retry_after: timedelta) -> None:
    connection.execute(_FAILED, {"id_": event_id, "retry_after": to_microseconds(retry_after)})


def _purge(connection: Connection, older_than: timedelta) -> int:
    return connection.execute(_PURGE, {"older_than": to_microseconds(older_than)}).rowcount


def _event(row: Row[*tuple[Any, ...]]) -> Event:
    return Event(
        type=EventType(row.type),
        owner=row.owner,
        upload_id=row.upload_id,
        file_id=row.file_id,
        id=row.id,
        data=mapping_from(row.data),
        occurred_at=from_microseconds(row.occurred_at),
    )
