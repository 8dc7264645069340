"""The outbox: events written with the change they tell of, handed out in order per upload."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import CTE, BigInteger, Connection, Row, bindparam, delete, exists, insert, select, union_all, update
from sqlalchemy.sql.dml import Insert

from uploadcore.events import Event, EventType
from uploadcore.ports import PendingEvent
from uploadcore_sql.clock import database_now, from_microseconds, to_microseconds
from uploadcore_sql.columns import json_text, mapping_from
from uploadcore_sql.running import Run, one_statement
from uploadcore_sql.tables import events, uploads

__all__ = ["SqlOutbox", "event_values", "insert_events", "write_events"]

PURGED_AT_ONCE = 10_000
"""Rows one purge drops: a fraction of a second of a server's time, far below what ends a statement. Sweeps come again and again."""

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
_leasing = update(events).values(due_at=database_now() + bindparam("lease", type_=BigInteger)).returning(events)
# A CTE, which PostgreSQL evaluates once: as a subquery with a limit it may be run again for each row, and claim more than that.
_unclaimed = _FIRST_DUE.with_for_update(skip_locked=True).cte("unclaimed")
_CLAIM = {
    "sqlite": _leasing.where(_c.position.in_(_FIRST_DUE.scalar_subquery())),
    "postgresql": _leasing.where(_c.position == _unclaimed.c.position),
}
_DELIVERED = (
    update(events).where(_c.id == bindparam("id_"), _c.delivered_at.is_(None)).values(delivered_at=database_now())
)
_FAILED = (
    update(events)
    .where(_c.id == bindparam("id_"), _c.delivered_at.is_(None))
    .values(attempts=_c.attempts + 1, due_at=database_now() + bindparam("retry_after", type_=BigInteger))
)
_OLD = (
    select(_c.position)
    .where(_c.delivered_at < database_now() - bindparam("older_than", type_=BigInteger))
    .with_for_update(
        skip_locked=True
    )  # another process is dropping them; on SQLite there is none, and this says nothing
    .limit(bindparam("limit_", type_=BigInteger))
)
_dropped = _OLD.cte("dropped")  # see `_unclaimed`
_PURGE = {
    "sqlite": delete(events).where(_c.position.in_(_OLD.scalar_subquery())),
    "postgresql": delete(events).where(_c.position == _dropped.c.position),
}
_LOCK = select(uploads.c.id).where(uploads.c.id == bindparam("upload_id_")).with_for_update()


class SqlOutbox:
    """The outbox, within one transaction."""

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    async def add(self, event: Event) -> None:
        """Write an event. Raises `VersionConflictError` where one of its id is there already."""
        await self._run(_add, event)

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
        """Drop events delivered longer ago than that, `PURGED_AT_ONCE` at most; how many."""
        return await self._run(_purge, older_than)


def write_events(connection: Connection, written: Sequence[Event]) -> None:
    """Write events of an upload whose row this transaction has locked, in their order."""
    for event in written:
        connection.execute(_INSERT, event_values(event))


def event_values(event: Event, suffix: str = "") -> dict[str, Any]:
    """The values of an event's row, by parameter."""
    values = {
        "id": event.id,
        "type": str(event.type),
        "owner": event.owner,
        "upload_id": event.upload_id,
        "file_id": event.file_id,
        "data": json_text(event.data),
    }
    return {f"{name}{suffix}": value for name, value in values.items()}


def insert_events(saved: CTE, count: int) -> Insert:
    """The statement that writes so many events if `saved` returns a row; the parameters of the first end in `_of_0`, and so on."""
    rows = [
        select(
            *(bindparam(f"{name}_of_{number}", type_=_c[name].type).label(name) for name in _WRITTEN),
            database_now().label("occurred_at"),
            bindparam("attempts", 0, type_=_c.attempts.type).label("attempts"),
            database_now().label("due_at"),
        ).select_from(saved)
        for number in range(count)
    ]
    return insert(events).from_select([*_WRITTEN, "occurred_at", "attempts", "due_at"], union_all(*rows))


_WRITTEN = ("id", "type", "owner", "upload_id", "file_id", "data")


def _add(connection: Connection, event: Event) -> None:
    # Positions are given out when a row is inserted, not when it is committed: who writes an event of an upload holds the upload's row, or
    # a later event could be seen, and delivered, before an earlier one.
    connection.execute(_LOCK, {"upload_id_": event.upload_id})
    write_events(connection, (event,))


@one_statement
def _claim(connection: Connection, limit: int, lease: timedelta) -> list[PendingEvent]:
    rows = connection.execute(_CLAIM[connection.dialect.name], {"limit_": limit, "lease": to_microseconds(lease)}).all()
    return [PendingEvent(_event(row), row.attempts) for row in sorted(rows, key=lambda row: row.position)]


@one_statement
def _delivered(connection: Connection, event_id: str) -> None:
    connection.execute(_DELIVERED, {"id_": event_id})


@one_statement
def _failed(connection: Connection, event_id: str, retry_after: timedelta) -> None:
    connection.execute(_FAILED, {"id_": event_id, "retry_after": to_microseconds(retry_after)})


@one_statement
def _purge(connection: Connection, older_than: timedelta) -> int:
    values = {"older_than": to_microseconds(older_than), "limit_": PURGED_AT_ONCE}
    return connection.execute(_PURGE[connection.dialect.name], values).rowcount


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
