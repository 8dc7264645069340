"""Events as rows: written with the change they tell of, and read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import CTE, BigInteger, Connection, Row, bindparam, insert, select, union_all
from sqlalchemy.sql.dml import Insert

from uploadcore.events import Event, EventType
from uploadcore_sql.clock import database_now, from_microseconds, to_microseconds
from uploadcore_sql.columns import json_text, mapping_from
from uploadcore_sql.tables import events, uploads

__all__ = ["add_event", "event_from", "event_values", "insert_events", "write_events"]

HANDOVER = timedelta(minutes=1)
"""How long a new event is left alone by code of revision 0002, whose relay claims what is due and knows no destinations. Should nobody else be
there any more, it takes over."""
NEVER = timedelta(days=36_500)
"""How long it leaves alone an event of a type that it does not know: reading one would end its relay, and with that its sweeper, each time anew."""
KNOWN_TO_0002 = frozenset(
    {
        "upload.completed",
        "upload.aborted",
        "upload.expired",
        "upload.failed",
        "upload.reopened",
        "file.deleted",
    }
)

_c = events.c
_BIG = BigInteger()

_INSERT = insert(events).values(
    occurred_at=database_now(), attempts=0, due_at=database_now() + bindparam("handover", type_=_BIG)
)
_LOCK = select(uploads.c.id).where(uploads.c.id == bindparam("upload_id_")).with_for_update()


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
        "handover": to_microseconds(HANDOVER if event.type in KNOWN_TO_0002 else NEVER),
    }
    return {f"{name}{suffix}": value for name, value in values.items()}


def insert_events(saved: CTE, count: int) -> Insert:
    """The statement that writes so many events if `saved` returns a row; the parameters of the first end in `_of_0`, and so on."""
    rows = [
        select(
            *(bindparam(f"{name}_of_{number}", type_=_c[name].type).label(name) for name in _WRITTEN),
            database_now().label("occurred_at"),
            bindparam("attempts", 0, type_=_c.attempts.type).label("attempts"),
            (database_now() + bindparam(f"handover_of_{number}", type_=_BIG)).label("due_at"),
        ).select_from(saved)
        for number in range(count)
    ]
    return insert(events).from_select([*_WRITTEN, "occurred_at", "attempts", "due_at"], union_all(*rows))


_WRITTEN = ("id", "type", "owner", "upload_id", "file_id", "data")


def add_event(connection: Connection, event: Event) -> None:
    """Write one event of an upload."""
    # Positions are given out when a row is inserted, not when it is committed: who writes an event of an upload holds the upload's row, or
    # a later event could be seen, and delivered, before an earlier one.
    connection.execute(_LOCK, {"upload_id_": event.upload_id})
    write_events(connection, (event,))


def event_from(row: Row[*tuple[Any, ...]]) -> Event:
    """The event of a row."""
    return Event(
        type=_type(row.type),
        owner=row.owner,
        upload_id=row.upload_id,
        file_id=row.file_id,
        id=row.id,
        data=mapping_from(row.data),
        occurred_at=from_microseconds(row.occurred_at),
        position=row.sequence,
    )


def _type(value: str) -> str:
    """An `EventType`; or what a later version of the code calls one that this version does not know."""
    try:
        return EventType(value)
    except ValueError:
        return value
