"""Looking at what is on its way, and putting it right: dead letters, the backlog, and dropping what is old."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Row,
    Select,
    Text,
    bindparam,
    delete,
    exists,
    func,
    select,
    tuple_,
    update,
)

from uploadcore.ports import Backlog, DeadLetter
from uploadcore_sql.clock import database_now, from_microseconds, to_microseconds
from uploadcore_sql.deliveries import done
from uploadcore_sql.events import event_from
from uploadcore_sql.running import one_statement
from uploadcore_sql.tables import deliveries, events

__all__ = ["backlog", "discard", "page", "purge", "replay"]

PURGED_AT_ONCE = 10_000
"""Rows one purge drops: a fraction of a second of a server's time, far below what ends a statement. Sweeps come again and again."""

_c, _d = events.c, deliveries.c
_BIG = BigInteger()

_DEAD_LETTERS = (
    select(events, _d.destination, _d.attempts.label("attempt"), _d.dead_at, _d.error)
    .join(events, _c.sequence == _d.sequence)
    .where(
        _d.dead_at.is_not(None),
        tuple_(_d.sequence, _d.destination)
        > tuple_(bindparam("after_sequence", type_=_BIG), bindparam("after_destination", type_=Text)),
    )
    .order_by(_d.sequence, _d.destination)
    .limit(bindparam("limit_", type_=_BIG))
)
_DEAD_LETTERS_OF = _DEAD_LETTERS.where(_d.destination == bindparam("destination_"))
_of_destination = select(_d.sequence).where(_d.destination == bindparam("destination_"))
_of_event = _of_destination.join(events, _c.sequence == _d.sequence).where(_c.id == bindparam("id_"))


def _some(condition: ColumnElement[bool]) -> dict[bool, Select[*tuple[Any, ...]]]:
    """Positions of deliveries to a destination: of all of them, or of one event's."""
    return {
        is_one: statement.where(condition).limit(bindparam("limit_", type_=_BIG))
        for is_one, statement in ((False, _of_destination), (True, _of_event))
    }


_DEAD, _PENDING = _some(_d.dead_at.is_not(None)), _some(_d.dead_at.is_(None))
# Locked in their order, which whoever changes many keeps to; and whether they are dead is asked again once they are: another may have replayed them.
_REPLAYED = {
    False: _DEAD[False].order_by(_d.sequence).with_for_update(),
    True: _DEAD[True].with_for_update(of=deliveries),
}
_REPLAY = (
    update(deliveries)
    .where(_d.destination == bindparam("destination_"), _d.sequence.in_(bindparam("sequences", expanding=True)))
    .values(attempts=0, due_at=database_now(), dead_at=None, error=None)
)
_counted = (
    select(
        _d.destination,
        func.count().filter(_d.dead_at.is_(None)).label("pending"),
        func.count().filter(_d.dead_at.is_not(None)).label("dead"),
        func.min(_d.sequence).filter(_d.dead_at.is_(None)).label("first"),
    )
    .group_by(_d.destination)
    .subquery("counted")
)
_BACKLOG = select(_counted, (database_now() - _c.occurred_at).label("age")).outerjoin(
    events, _c.sequence == _counted.c.first
)
_UNNUMBERED = select(func.count().label("pending"), (database_now() - func.min(_c.occurred_at)).label("age")).where(
    _c.sequence.is_(None), _c.delivered_at.is_(None)
)
_OLD_DEAD = (
    select(_d.sequence, _d.destination)
    .where(_d.dead_at < database_now() - bindparam("dead_older_than", type_=_BIG))
    .limit(bindparam("limit_", type_=_BIG))
)
_OLD = (
    select(_c.position)
    .where(
        _c.delivered_at < database_now() - bindparam("older_than", type_=_BIG),
        ~exists().where(_d.sequence == _c.sequence),
    )
    # Locked: another process is dropping them. On SQLite there is none, and this says nothing.
    .with_for_update(skip_locked=True)
    .limit(bindparam("limit_", type_=_BIG))
)
_dropped = _OLD.cte("dropped")  # see `_unclaimed` of `deliveries`
_PURGE = {
    "sqlite": delete(events).where(_c.position.in_(_OLD.scalar_subquery())),
    "postgresql": delete(events).where(_c.position == _dropped.c.position),
}


@one_statement
def page(
    connection: Connection, destination: str | None, after: tuple[int, str] | None, limit: int
) -> list[DeadLetter]:
    """Dead letters by position and destination, strictly after that pair."""
    at, name = after or (0, "")
    values = {"after_sequence": at, "after_destination": name, "limit_": limit}
    if destination is None:
        rows = connection.execute(_DEAD_LETTERS, values)
    else:
        rows = connection.execute(_DEAD_LETTERS_OF, values | {"destination_": destination})
    return [_dead_letter(row) for row in rows]


def _dead_letter(row: Row[*tuple[Any, ...]]) -> DeadLetter:
    dead_at = from_microseconds(row.dead_at)
    assert dead_at is not None, "that is what was asked for"
    return DeadLetter(event_from(row), row.destination, row.attempt, dead_at, row.error or "")


def replay(connection: Connection, destination: str, event_id: str | None, limit: int) -> int:
    """Let dead letters be claimed again, one or so many; how many."""
    sequences = _found(connection, _REPLAYED, destination, event_id, limit)
    if sequences:
        connection.execute(_REPLAY, {"destination_": destination, "sequences": sequences})
    return len(sequences)


def discard(connection: Connection, destination: str, event_id: str | None, limit: int) -> int:
    """Drop what a destination still has to get, dead letters first; how many."""
    sequences = _found(connection, _DEAD, destination, event_id, limit)
    sequences += _found(connection, _PENDING, destination, event_id, limit - len(sequences))
    if sequences:
        done(connection, [(sequence, destination) for sequence in sequences])
    return len(sequences)


def _found(
    connection: Connection,
    statements: Mapping[bool, Select[*tuple[Any, ...]]],
    destination: str,
    event_id: str | None,
    limit: int,
) -> list[int]:
    """Positions of deliveries to a destination: of one event's, or of so many."""
    values: dict[str, Any] = {"destination_": destination, "limit_": limit}
    if event_id is not None:
        values["id_"] = event_id
    return list(connection.scalars(statements[event_id is not None], values))


def purge(connection: Connection, older_than: timedelta, dead_older_than: timedelta) -> int:
    """Drop old dead letters and events that are done with; how many."""
    values = {"dead_older_than": to_microseconds(dead_older_than), "limit_": PURGED_AT_ONCE}
    dead = [(row.sequence, row.destination) for row in connection.execute(_OLD_DEAD, values)]
    purged = done(connection, dead, dead_older_than=dead_older_than) if dead else 0
    values = {"older_than": to_microseconds(older_than), "limit_": PURGED_AT_ONCE}
    return purged + connection.execute(_PURGE[connection.dialect.name], values).rowcount


def backlog(connection: Connection, destinations: Collection[str]) -> tuple[Backlog, ...]:
    """What is pending and dead, for these destinations and all that have any."""
    unnumbered = connection.execute(_UNNUMBERED).one()
    found = {row.destination: row for row in connection.execute(_BACKLOG)}
    backlogs = []
    for name in sorted({*destinations, *found}):
        row = found.get(name)
        pending, dead, age = (row.pending, row.dead, row.age) if row else (0, 0, None)
        if name in destinations:
            pending += unnumbered.pending
            age = unnumbered.age if age is None else age  # what has its position is older than what has none
        backlogs.append(Backlog(name, pending, dead, None if age is None else timedelta(microseconds=age)))
    return tuple(backlogs)
